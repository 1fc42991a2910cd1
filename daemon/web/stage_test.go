package web

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/kiosk"
	"yaoju/protocol"
)

// stage is a session without a kiosk behind it: a test puts up any view and sees
// what was tapped.
type stage struct {
	t    *testing.T
	taps chan press

	mu    sync.Mutex
	view  kiosk.View    // guarded by mu
	stale chan struct{} // guarded by mu
}

func newStage(t *testing.T) *stage {
	return &stage{t: t, taps: make(chan press, 16), view: scene0(kiosk.Attract), stale: make(chan struct{})}
}

func (s *stage) Watch() (kiosk.View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view, s.stale
}

func (s *stage) Tap(serial uint64, tap kiosk.Tap, arg string) {
	select {
	case s.taps <- press{Serial: serial, Tap: tap, Arg: arg}:
	default:
		s.t.Error("more taps than anybody looked at")
	}
}

// change alters the view; the screen stays the same one.
func (s *stage) change(f func(*kiosk.View)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.view)
	close(s.stale)
	s.stale = make(chan struct{})
}

// show puts up a new screen and returns the key the page will show for it.
func (s *stage) show(v kiosk.View) string {
	s.change(func(now *kiosk.View) {
		v.Serial = now.Serial + 1
		*now = v
	})
	return fmt.Sprintf("%d.%t", v.Serial, v.Covered)
}

var (
	noon    = time.Date(2026, 11, 23, 14, 32, 0, 0, time.FixedZone("CST", 8*3600))
	monthly = protocol.Policy{AgeFrom: 20, AgeTo: 55, Rules: []protocol.Rule{
		{Max: 2, Per: protocol.PerMonth}, {Max: 120, Units: true, Per: protocol.PerYear}}}
)

// scene0 is a screen with everything around it as it usually is.
func scene0(s kiosk.Screen) kiosk.View {
	return kiosk.View{Screen: s, Modes: kiosk.Modes{Lang: kiosk.ZH}, Now: noon, Place: kiosk.Place{
		Machine:   "m-0017",
		Boxes:     1,
		Policy:    protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 30}}},
		KeepDays:  30,
		RestockBy: noon.AddDate(0, 0, 2),
		Texts:     protocol.Texts{Authority: protocol.Text{ZH: "柳桥区卫生健康局", EN: "Liuqiao District Health Bureau"}, Phone: "000-0000-0000"},
		Nearby: []protocol.Nearby{
			{Name: protocol.Text{ZH: "柳桥街道社区卫生服务中心", EN: "Liuqiao Community Health Centre"}, Where: protocol.Text{ZH: "步行约 9 分钟 · 24 小时", EN: "9 min walk · 24 h"}},
			{Name: protocol.Text{ZH: "望河第二卫生服务站", EN: "Wanghe No. 2 Health Station"}, Where: protocol.Text{ZH: "步行约 14 分钟 · 8:00–20:00", EN: "14 min walk · 8:00–20:00"}},
		},
	}}
}

func products(n int) []kiosk.Choice {
	outer := protocol.Text{ZH: "外用 · 不预防性病", EN: "No STI protection"}
	all := []kiosk.Choice{
		{ID: "condom-52", Name: protocol.Text{ZH: "避孕套 标准型", EN: "Condoms, 52 mm"}, Note: protocol.Text{ZH: "10 只装 · 52 毫米", EN: "Standard, pack of 10"}},
		{ID: "condom-49", Name: protocol.Text{ZH: "避孕套 小号", EN: "Condoms, 49 mm"}, Note: protocol.Text{ZH: "10 只装 · 49 毫米", EN: "Small, pack of 10"}},
		{ID: "gel", Name: protocol.Text{ZH: "避孕凝胶", EN: "Contraceptive gel"}, Note: outer},
		{ID: "suppository", Name: protocol.Text{ZH: "避孕栓", EN: "Contraceptive suppository"}, Note: outer},
		{ID: "film", Name: protocol.Text{ZH: "避孕膜", EN: "Contraceptive film"}, Note: outer},
		{ID: "condom-56", Name: protocol.Text{ZH: "避孕套 大号", EN: "Condoms, 56 mm"}, Note: protocol.Text{ZH: "10 只装 · 56 毫米", EN: "Large, pack of 10"}},
		{ID: "condom-thin", Name: protocol.Text{ZH: "避孕套 超薄型", EN: "Condoms, thin"}, Note: protocol.Text{ZH: "10 只装 · 52 毫米", EN: "52 mm, pack of 10"}},
		{ID: "gel-small", Name: protocol.Text{ZH: "避孕凝胶 小支", EN: "Contraceptive gel, small"}, Note: outer},
		{ID: "folic-acid", Name: protocol.Text{ZH: "叶酸片", EN: "Folic acid tablets"}, Note: protocol.Text{ZH: "31 片装", EN: "Pack of 31"}},
		{ID: "test-strip", Name: protocol.Text{ZH: "早早孕检测试纸", EN: "Pregnancy test strips"}, Note: protocol.Text{ZH: "2 条装", EN: "Pack of 2"}},
	}
	for i := range all {
		all[i].Letter, all[i].Stock = string(rune('A'+i)), i%5 != 3
	}
	return all[:n]
}

type named struct {
	name string
	view kiosk.View
}

// scenes are every screen, and every screen's other faces.
func scenes() []named {
	with := func(s kiosk.Screen, f func(*kiosk.View)) kiosk.View {
		v := scene0(s)
		f(&v)
		return v
	}
	plain := func(*kiosk.View) {}
	offer := func(n int) func(*kiosk.View) { return func(v *kiosk.View) { v.Products = products(n) } }
	alone := func(v *kiosk.View) { v.Place.Nearby, v.Place.RestockBy = nil, time.Time{} }
	closed := func(f protocol.Fault) func(*kiosk.View) { return func(v *kiosk.View) { v.Code = f.Code() } }
	return []named{
		{"attract", with(kiosk.Attract, plain)},
		{"attract-monthly", with(kiosk.Attract, func(v *kiosk.View) { v.Place.Policy = monthly })},
		{"attract-cardleft", with(kiosk.Attract, func(v *kiosk.View) { v.CardLeft = true })},
		{"choose", with(kiosk.Choose, offer(5))},
		{"choose-hidden", with(kiosk.Choose, func(v *kiosk.View) { v.Products, v.Modes.Discreet = products(5), true })},
		{"choose-1", with(kiosk.Choose, offer(1))},
		{"choose-6", with(kiosk.Choose, offer(6))},
		{"choose-8", with(kiosk.Choose, offer(8))},
		{"choose-10", with(kiosk.Choose, offer(10))},
		{"choose-10-hidden", with(kiosk.Choose, func(v *kiosk.View) { v.Products, v.Modes.Discreet = products(10), true })},
		{"scan", with(kiosk.Scan, plain)},
		{"scan-ask", with(kiosk.Scan, func(v *kiosk.View) { v.Consent = true })},
		{"scan-agreed", with(kiosk.Scan, func(v *kiosk.View) { v.Consent, v.Consented = true, true })},
		{"privacy", with(kiosk.Privacy, func(v *kiosk.View) { v.Place.KeepDays = 366 })},
		{"checking", with(kiosk.Checking, plain)},
		{"dispense", with(kiosk.Dispense, func(v *kiosk.View) { v.Percent, v.Seconds = 62, 4 })},
		{"dispense-slow", with(kiosk.Dispense, func(v *kiosk.View) { v.Percent, v.Seconds, v.Slow = 95, 1, true })},
		{"take", with(kiosk.Take, plain)},
		{"take-again", with(kiosk.Take, func(v *kiosk.View) { v.LookAgain = true })},
		{"take-cardleft", with(kiosk.Take, func(v *kiosk.View) { v.CardLeft = true })},
		{"done", with(kiosk.Done, func(v *kiosk.View) { v.Next = noon.AddDate(0, 0, 30) })},
		{"early", with(kiosk.Early, func(v *kiosk.View) { v.Next, v.Days = noon.AddDate(0, 0, 16), 16 })},
		{"age", with(kiosk.Age, plain)},
		{"age-range", with(kiosk.Age, func(v *kiosk.View) { v.Place.Policy = monthly })},
		{"expired", with(kiosk.Expired, plain)},
		{"cardfail", with(kiosk.CardFail, func(v *kiosk.View) { v.Attempts = 1 })},
		{"cardfail-3", with(kiosk.CardFail, func(v *kiosk.View) { v.Attempts = 3 })},
		{"empty", with(kiosk.Empty, plain)},
		{"empty-alone", with(kiosk.Empty, alone)},
		{"jam", with(kiosk.Jam, func(v *kiosk.View) { v.Other = true })},
		{"jam-alone", with(kiosk.Jam, plain)},
		{"unsure", with(kiosk.Unsure, plain)},
		{"fault", with(kiosk.Fault, closed(protocol.FaultReader))},
		{"fault-told", with(kiosk.Fault, func(v *kiosk.View) { v.Open = true; closed(protocol.FaultBoardSilent)(v) })},
		{"fault-alone", with(kiosk.Fault, func(v *kiosk.View) { alone(v); closed(protocol.FaultReader)(v) })},
		{"fault-bare", kiosk.View{Screen: kiosk.Fault, Now: noon, Code: protocol.FaultBoardSilent.Code(), Open: true, Place: kiosk.Place{Machine: "m-0017", Boxes: 1}}},
		{"paused", with(kiosk.Fault, closed(protocol.FaultPaused))},
		{"door", with(kiosk.Fault, closed(protocol.FaultDoor))},
		{"clock", with(kiosk.Fault, closed(protocol.FaultClock))},
		{"staffdoor", staffScene(kiosk.StaffDoor, 10, func(v *kiosk.StaffView) {})},
		{"staffdoor-stranger", staffScene(kiosk.StaffDoor, 10, func(v *kiosk.StaffView) { v.Note = kiosk.Note{Key: "staff.stranger", Bad: true} })},
		{"staffpin", staffScene(kiosk.StaffPIN, 10, func(v *kiosk.StaffView) { v.Typed = 3 })},
		{"staffpin-wrong", staffScene(kiosk.StaffPIN, 10, func(v *kiosk.StaffView) { v.Note = kiosk.Note{Key: "staff.wrongpin", N: 3, Bad: true} })},
		{"staffwork", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {})},
		{"staffwork-small", staffScene(kiosk.StaffWork, 5, func(v *kiosk.StaffView) { v.Note = kiosk.Note{Key: "staff.scanned", Name: "B2606-17"} })},
		{"staffload", staffScene(kiosk.StaffWork, 10, loading)},
		{"staffload-small", staffScene(kiosk.StaffWork, 5, loading)},
		{"staffload-refused", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {
			loading(v)
			v.Note = kiosk.Note{Key: "staff.refused.recalled", Bad: true}
		})},
		{"staffwork-unread", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {
			v.Note = kiosk.Note{Bad: true, Text: protocol.Text{ZH: "这不是药具包装上的码，请扫盒上的条码或二维码", EN: "This is not a code of a carton: scan the bar code or square code on the box"}}
		})},
		{"stafftake", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {
			loading(v)
			v.Panel, v.Draft = kiosk.PanelTake, kiosk.Draft{N: 2, Batch: "B2606-17"}
		})},
		{"staffcount", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {
			loading(v)
			v.Panel, v.Draft = kiosk.PanelCount, kiosk.Draft{N: 11, Typed: true, Batch: "B2606-17"}
		})},
		{"staffdiffers", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) {
			loading(v)
			v.Panel, v.Expected = kiosk.PanelDiffers, 12
		})},
		{"staffexpiry", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) { loading(v); v.Panel = kiosk.PanelExpiry })},
		{"staffbatch", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) { loading(v); v.Panel = kiosk.PanelBatch })},
		{"staffunknown", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) { loading(v); v.Panel = kiosk.PanelUnknown })},
		{"staffsure", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) { v.Panel, v.Draft.N = kiosk.PanelSure, 66 })},
		{"staffaudit", staffScene(kiosk.StaffWork, 10, func(v *kiosk.StaffView) { v.Account.Role = protocol.RoleAuditor })},
		{"staffdone", staffScene(kiosk.StaffDone, 10, func(v *kiosk.StaffView) {})},
		{"idle", with(kiosk.Early, func(v *kiosk.View) { v.Next, v.Days, v.Covered, v.Seconds = noon.AddDate(0, 0, 16), 16, true, 20 })},
	}
}

// staffScene is a staff's screen of a cabinet with so many columns, and something
// wrong in every row.
func staffScene(screen kiosk.Screen, columns int, f func(*kiosk.StaffView)) kiosk.View {
	v := scene0(screen)
	st := &kiosk.StaffView{Account: kiosk.Account{Staff: "s-104", Role: protocol.RoleRestocker}, Door: true, Products: products(5), Panel: kiosk.PanelNeed,
		Leaves: 9*time.Minute + 40*time.Second, Loaded: 66, Slots: 6, Took: 6*time.Minute + 12*time.Second,
		Ready: []kiosk.Carton{{Product: "condom-52", Batch: "B2606-17", Expiry: "2028-06-30"}, {Product: "gel", Batch: "G77", Expiry: "2027-01-31"}},
		Need:  []kiosk.Need{{Product: "condom-52", Slots: 3, Pieces: 33}, {Product: "condom-49", Slots: 1, Pieces: 9}, {Product: "suppository", Slots: 2, Pieces: 24}}}
	marks := []kiosk.Mark{kiosk.MarkOK, kiosk.MarkLow, kiosk.MarkDone, kiosk.MarkEmpty, kiosk.MarkNear, kiosk.MarkJam, kiosk.MarkOff, kiosk.MarkBad, kiosk.MarkUnknown}
	for row := range protocol.Rows {
		for col := range columns {
			i := row*columns + col
			if i == 12 {
				continue // no motor there
			}
			st.Cells = append(st.Cells, kiosk.Cell{Mark: marks[i%len(marks)], Bay: kiosk.Bay{
				SlotPlan: protocol.SlotPlan{Slot: protocol.Slot(row*protocol.Columns + col + 1), Product: st.Products[row%5].ID, Capacity: 12, Par: 3},
				Lots:     []kiosk.Lot{{Product: st.Products[row%5].ID, Batch: "B2606-17", Expiry: "2028-06-30", Pieces: i % 13}, {Product: st.Products[row%5].ID, Batch: "B2701-02", Expiry: "2029-01-31", Pieces: 1}}}})
		}
	}
	f(st)
	v.Staff = st
	return v
}

func loading(v *kiosk.StaffView) {
	v.Slot, v.Panel, v.Draft = 2, kiosk.PanelLoad, kiosk.Draft{N: 12, Batch: "B2606-17", Expiry: "2028-06-30"}
}

// looks are the ways a screen is drawn for different people.
var looks = []struct {
	name string
	mode func(*kiosk.Modes)
}{
	{"zh", func(*kiosk.Modes) {}},
	{"en", func(m *kiosk.Modes) { m.Lang = kiosk.EN }},
	{"big", func(m *kiosk.Modes) { m.Big = true }},
	{"contrast", func(m *kiosk.Modes) { m.Contrast = true }},
	{"en-big", func(m *kiosk.Modes) { m.Lang, m.Big = kiosk.EN, true }},
	{"en-voice", func(m *kiosk.Modes) { m.Lang, m.Voice, m.Volume = kiosk.EN, true, 5 }},
}

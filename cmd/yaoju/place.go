package main

import (
	"fmt"
	"time"

	reader "yaoju/daemon/card/sim"
	"yaoju/protocol"
)

// Everything in this file is invented.

// The person who fills the demo's machines: account, staff card and PIN.
const (
	restocker    = "s-01"
	restockerPIN = "830417"
)

var restockerCard = []byte{0x04, 0xA1, 0xB2, 0xC3, 0xD4, 0xE5, 0xF6}

// carton is the code on a carton of a product that came today.
func carton(p protocol.Product, today time.Time) string {
	return fmt.Sprintf("]d201%s17%s10N%s", p.Codes[0], today.AddDate(2, 6, 0).Format("060102"), today.Format("060102"))
}

var products = []protocol.Product{
	{ID: "condom-52", Codes: []string{"16900000001001"}, Letter: "A", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套 标准型", EN: "Condoms, 52 mm"}, Note: protocol.Text{ZH: "10 只装 · 52 毫米", EN: "Standard, pack of 10"}},
	{ID: "condom-49", Codes: []string{"16900000001018"}, Letter: "B", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套 小号", EN: "Condoms, 49 mm"}, Note: protocol.Text{ZH: "10 只装 · 49 毫米", EN: "Small, pack of 10"}},
	{ID: "gel", Codes: []string{"16900000001025"}, Letter: "C", Class: "external", Units: 1, Name: protocol.Text{ZH: "避孕凝胶", EN: "Contraceptive gel"}, Note: protocol.Text{ZH: "外用 · 不预防性病", EN: "No STI protection"}},
	{ID: "suppository", Codes: []string{"16900000001032"}, Letter: "D", Class: "external", Units: 1, Name: protocol.Text{ZH: "避孕栓", EN: "Contraceptive suppository"}, Note: protocol.Text{ZH: "外用 · 不预防性病", EN: "No STI protection"}},
	{ID: "film", Codes: []string{"16900000001049"}, Letter: "E", Class: "external", Units: 1, Name: protocol.Text{ZH: "避孕膜", EN: "Contraceptive film"}, Note: protocol.Text{ZH: "外用 · 不预防性病", EN: "No STI protection"}},
}

var policy = protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 30}}}

var nearby = []protocol.Nearby{
	{Name: protocol.Text{ZH: "柳桥街道社区卫生服务中心", EN: "Liuqiao Community Health Centre"}, Where: protocol.Text{ZH: "步行约 9 分钟 · 24 小时", EN: "9 min walk · 24 h"}},
	{Name: protocol.Text{ZH: "望河第二卫生服务站", EN: "Wanghe No. 2 Health Station"}, Where: protocol.Text{ZH: "步行约 14 分钟 · 8:00–20:00", EN: "14 min walk · 8:00–20:00"}},
}

// site is where a machine stands.
type site struct {
	machine            protocol.MachineID
	name, street, room protocol.Text
	busy               float64 // residents a day
}

var streets = []protocol.Text{{ZH: "北苑街道", EN: "Beiyuan"}, {ZH: "柳桥街道", EN: "Liuqiao"}, {ZH: "书院街道", EN: "Shuyuan"}, {ZH: "东坪街道", EN: "Dongping"}, {ZH: "望河街道", EN: "Wanghe"}, {ZH: "南塘镇", EN: "Nantang"}}

var communities = []protocol.Text{{ZH: "桂花", EN: "Guihua"}, {ZH: "银杏", EN: "Yinxing"}, {ZH: "长亭", EN: "Changting"}, {ZH: "清泉", EN: "Qingquan"}, {ZH: "梧桐", EN: "Wutong"}, {ZH: "向阳", EN: "Xiangyang"}, {ZH: "枫林", EN: "Fenglin"}, {ZH: "云锦", EN: "Yunjin"}, {ZH: "松涛", EN: "Songtao"}, {ZH: "莲池", EN: "Lianchi"}, {ZH: "学府", EN: "Xuefu"}}

// siteOf returns where machine number n stands; 0 is the complete one.
func siteOf(n int) site {
	s := site{machine: protocol.MachineID(fmt.Sprintf("m-%04d", n+1)), street: streets[n%len(streets)], busy: 2 + float64((n*7)%5),
		room: protocol.Text{ZH: "一楼大厅东侧，无障碍通道旁", EN: "Ground floor, east side, step-free"}}
	c := communities[n%len(communities)]
	s.name = protocol.Text{ZH: c.ZH + "社区卫生服务站", EN: c.EN + " Health Station"}
	if n >= len(communities) {
		s.name = protocol.Text{ZH: fmt.Sprintf("%s第%d社区卫生服务站", c.ZH, n/len(communities)+1), EN: fmt.Sprintf("%s Health Station No. %d", c.EN, n/len(communities)+1)}
	}
	if n == 0 {
		s.name = protocol.Text{ZH: "演示机 · 桂花社区卫生服务站", EN: "Demo machine · Guihua Health Station"}
	}
	return s
}

// bay is one slot as the restocker left it.
type bay struct {
	slot     protocol.Slot
	product  protocol.ProductID
	capacity int
	par      int
	pieces   int
	batch    string
	expiry   protocol.DateOnly
}

// tray is the cabinet of a demo machine: two rows of the first product, one of
// each other, five spirals a row.
func tray(today time.Time) (bays []bay) {
	row := func(r int, p protocol.ProductID, capacity int, months int) {
		expiry := time.Date(today.Year(), today.Month()+time.Month(months), 0, 0, 0, 0, 0, time.UTC)
		for c := range 5 {
			bays = append(bays, bay{slot: protocol.Slot(r*protocol.Columns + c + 1), product: p, capacity: capacity, par: capacity / 4, pieces: capacity,
				batch: fmt.Sprintf("B%02d%02d", expiry.Year()%100, int(expiry.Month())), expiry: protocol.DateOnly(expiry.Format(time.DateOnly))})
		}
	}
	row(0, "condom-52", 12, 26)
	row(1, "condom-52", 12, 31)
	row(2, "condom-49", 12, 29)
	row(3, "gel", 10, 14)
	row(4, "suppository", 10, 18)
	row(5, "film", 10, 20)
	return bays
}

// desired is what should be so on a demo machine.
func desired(m protocol.MachineID, bays []bay, today time.Time) protocol.Desired {
	d := protocol.Desired{Machine: m, Policy: policy, Products: products, Nearby: nearby, Texts: protocol.Texts{
		Authority: protocol.Text{ZH: "青榆区卫生健康局（示例）", EN: "Qingyu District Health Authority (sample)"}, Phone: "000-0000-0000",
		RestockBy: protocol.DateOnly(today.AddDate(0, 0, 2).Format(time.DateOnly))}}
	for _, b := range bays {
		d.Planogram = append(d.Planogram, protocol.SlotPlan{Slot: b.slot, Product: b.product, Capacity: b.capacity, Par: b.par})
	}
	return d
}

// visitor is an invented person whose card lies on the demo's bench.
type visitor struct {
	key    string
	name   protocol.Text
	person reader.Person
	fault  *reader.Fault // the card cannot be read
}

// visitors are the cards on the bench; today decides who is of age.
func visitors(today time.Time) []visitor {
	birth := func(years int) string { return today.AddDate(-years, -1, 0).Format("20060102") }
	expired := reader.Resident("测试丁", "110105", birth(45), 21)
	expired.ValidTo = today.AddDate(0, -2, 0).Format("20060102")
	return []visitor{
		{key: "adult-1", name: protocol.Text{ZH: "居民甲，31 岁", EN: "Resident 1, 31"}, person: reader.Resident("测试甲", "110105", birth(31), 2)},
		{key: "adult-2", name: protocol.Text{ZH: "居民乙，52 岁", EN: "Resident 2, 52"}, person: reader.Resident("测试乙", "440524", birth(52), 11)},
		{key: "adult-3", name: protocol.Text{ZH: "居民丙，24 岁", EN: "Resident 3, 24"}, person: reader.Resident("测试丙", "340524", birth(24), 8)},
		{key: "permit", name: protocol.Text{ZH: "居住证，40 岁", EN: "Residence permit, 40"}, person: reader.PermitHolder("测试戊", "810000", birth(40), 5)},
		{key: "foreigner", name: protocol.Text{ZH: "永久居留证，36 岁", EN: "Permanent residence, 36"}, person: reader.NewForeigner("测试己", "AAA", "040", "11", birth(36), 3)},
		{key: "spare", name: protocol.Text{ZH: "居民丁，29 岁", EN: "Resident 4, 29"}, person: reader.Resident("测试壬", "340524", birth(29), 13)},
		{key: "late", name: protocol.Text{ZH: "居民戊，47 岁", EN: "Resident 5, 47"}, person: reader.Resident("测试癸", "440524", birth(47), 15)},
		{key: "minor", name: protocol.Text{ZH: "未成年人，15 岁", EN: "Under age, 15"}, person: reader.Resident("测试庚", "110105", birth(15), 6)},
		{key: "expired", name: protocol.Text{ZH: "证件过期，45 岁", EN: "Card expired, 45"}, person: expired},
		{key: "broken", name: protocol.Text{ZH: "读不出的卡", EN: "Card that cannot be read"}, person: reader.Resident("测试辛", "110105", birth(33), 9),
			fault: &reader.Fault{Kind: reader.Status, On: reader.ReadText, Status: 0x41}},
	}
}

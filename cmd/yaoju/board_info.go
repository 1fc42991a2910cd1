package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// boardInfo runs `yaoju board info`.
func boardInfo(ctx context.Context, args []string, term terminal) error {
	f := flag.NewFlagSet("yaoju board info", flag.ContinueOnError)
	f.SetOutput(term.err)
	configPath := f.String("config", "", "kioskd.toml of the machine")
	port := f.String("port", "", "serial line of the board, such as /dev/ttyAMA0; without it the one in -config")
	asJSON := f.Bool("json", false, "print one JSON object")
	lang := f.String("lang", "en", "language: zh or en")
	if err := parse(f, args); err != nil {
		return err
	}
	switch {
	case *configPath == "" && *port == "":
		return usageError{errors.New("say which board: -config kioskd.toml, or -port with its serial line")}
	case *lang != "zh" && *lang != "en":
		return usageError{fmt.Errorf("-lang %q: want zh or en", *lang)}
	}
	p, err := findPlace(*configPath, *port)
	if err != nil {
		return err
	}
	held, err := p.hold()
	if err != nil {
		return err
	}
	if held != nil {
		defer held.Close()
	}
	r, err := readReport(ctx, p)
	if err != nil {
		return err
	}
	if *asJSON {
		out := json.NewEncoder(term.out)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	return r.print(term.out, *lang == "zh")
}

// What a board's configuration is, in a report.
const (
	configNone     = "none"     // none was ever stored: no slot turns
	configMachine  = "machine"  // that of the machine whose configuration file was named
	configForeign  = "foreign"  // not that machine's
	configStandard = "standard" // without a machine: 60 single slots with usual motors
	configOther    = "other"    // without a machine: something else
)

// report is what a board says of itself.
type report struct {
	Port        string           `json:"port"`
	Serial      string           `json:"serial"` // 16 hexadecimal digits; all zero is none
	Build       string           `json:"build"`  // 8 hexadecimal digits
	Protocol    uint8            `json:"protocol"`
	ConfigHash  string           `json:"config_hash"` // 8 hexadecimal digits
	Config      string           `json:"config"`      // none, machine or foreign; without a machine none, standard or other
	HighestVend protocol.VendID  `json:"highest_vend"`
	Boots       uint32           `json:"boots"`
	ResetCause  string           `json:"reset_cause"` // power, external, brown_out, watchdog, or a number
	UptimeMS    uint32           `json:"uptime_ms"`
	Fitted      []int            `json:"fitted"` // slots; a list of bytes would be written as text
	NotHome     []int            `json:"not_home"`
	DoorOpen    bool             `json:"door_open"`
	LockOpen    bool             `json:"lock_open"`
	Light       uint8            `json:"light_percent"`
	SensorOK    bool             `json:"drop_sensor_ok"`
	SensorDark  bool             `json:"drop_sensor_dark"`
	Spontaneous uint16           `json:"spontaneous_drops"`
	Climate     *reportClimate   `json:"climate"` // null: no reading
	Turns       uint32           `json:"turns"`
	Drops       uint32           `json:"drops"`
	Motion      string           `json:"motion"` // none, vend, test, home, or a number
	MotionSlot  protocol.Slot    `json:"motion_slot,omitempty"`
	Latched     *reportedFault   `json:"latched"` // null: none
	JournalOK   bool             `json:"journal_ok"`
	cause       board.ResetCause // for print
	motion      board.Motion
}

// reportClimate is the air in the cabinet.
type reportClimate struct {
	C  float64 `json:"c"`
	RH float64 `json:"rh"` // percent
}

// reportedFault is a fault that forbids all motion.
type reportedFault struct {
	Fault protocol.Fault `json:"fault"`
	Slot  protocol.Slot  `json:"slot,omitempty"`
	ZH    string         `json:"zh"`
	EN    string         `json:"en"`
}

// readReport asks the board all it can tell.
func readReport(ctx context.Context, p place) (report, error) {
	l, err := openLine(ctx, p.port, p.baud)
	if err != nil {
		return report{}, err
	}
	defer l.close()
	h, err := l.hello(ctx, askLimit)
	if errors.Is(err, errSilent) {
		err = fmt.Errorf("%w A blank board, and one whose flash was cut short, is mended with yaoju board flash --blank", err)
	}
	if err != nil {
		return report{}, err
	}
	s, err := l.status(ctx)
	if err != nil {
		return report{}, err
	}
	return newReport(p, h, s), nil
}

func newReport(p place, h board.HelloIs, s board.StatusIs) report {
	r := report{
		Port: p.port, Serial: serialText(h.Serial), Build: fmt.Sprintf("%08x", h.Build), Protocol: h.Proto,
		ConfigHash: fmt.Sprintf("%08x", h.ConfigHash), Config: configIs(p, h), HighestVend: h.Highest, Boots: h.Boot,
		UptimeMS: s.UptimeMS, Fitted: list(h.Fitted), NotHome: list(s.NotHome),
		DoorOpen: s.DoorOpen, LockOpen: s.LockOpen, Light: s.Light, SensorOK: !s.SensorDark && s.Curtain != board.CurtainBlind,
		SensorDark: s.SensorDark, Spontaneous: s.Spontaneous, Turns: s.Turns, Drops: s.Drops,
		MotionSlot: s.Slot, JournalOK: !s.JournalBad, cause: h.ResetCause, motion: s.Motion,
	}
	words := map[board.ResetCause]string{board.ResetPower: "power", board.ResetExternal: "external", board.ResetBrownOut: "brown_out", board.ResetWatchdog: "watchdog"}
	if r.ResetCause = words[h.ResetCause]; r.ResetCause == "" {
		r.ResetCause = strconv.Itoa(int(h.ResetCause))
	}
	motions := map[board.Motion]string{board.MotionNone: "none", board.MotionVend: "vend", board.MotionTest: "test", board.MotionHome: "home"}
	if r.Motion = motions[s.Motion]; r.Motion == "" {
		r.Motion = strconv.Itoa(int(s.Motion))
	}
	if s.Climate {
		r.Climate = &reportClimate{C: float64(s.CentiC) / 100, RH: float64(s.CentiRH) / 100}
	}
	if s.Latched != 0 {
		info, _ := protocol.Fault(s.Latched).Info() // a number we do not know has words that say so
		r.Latched = &reportedFault{Fault: protocol.Fault(s.Latched), Slot: s.LatchedSlot, ZH: info.ZH, EN: info.EN}
	}
	return r
}

// configIs says whose configuration the board has.
func configIs(p place, h board.HelloIs) string {
	switch {
	case h.ConfigHash == 0:
		return configNone
	case p.kiosk != nil && h.ConfigHash == p.kiosk.Configure().Hash():
		return configMachine
	case p.kiosk != nil:
		return configForeign
	case h.ConfigHash == board.DefaultConfigure().Hash():
		return configStandard
	}
	return configOther
}

// list returns the slots of a set; none is an empty list, not null.
func list(s board.SlotSet) []int {
	l := []int{}
	for _, n := range s.List() {
		l = append(l, int(n))
	}
	return l
}

// serialText is a board's serial number as kioskd and the district write it.
func serialText(n uint64) string { return fmt.Sprintf("%016x", n) }

func resetCause(c board.ResetCause) protocol.Text {
	switch c {
	case board.ResetPower:
		return protocol.Text{ZH: "通电", EN: "power came"}
	case board.ResetExternal:
		return protocol.Text{ZH: "复位线、烧录或重启命令", EN: "reset line, programmer or a command"}
	case board.ResetBrownOut:
		return protocol.Text{ZH: "电压跌落", EN: "supply voltage dipped"}
	case board.ResetWatchdog:
		return protocol.Text{ZH: "程序失去响应，看门狗复位", EN: "firmware hung, watchdog"}
	}
	return protocol.Text{ZH: fmt.Sprintf("未知（%d）", c), EN: fmt.Sprintf("unknown (%d)", c)}
}

func motionWord(m board.Motion) protocol.Text {
	switch m {
	case board.MotionVend:
		return protocol.Text{ZH: "正在出货", EN: "vending"}
	case board.MotionTest:
		return protocol.Text{ZH: "正在测试", EN: "testing"}
	case board.MotionHome:
		return protocol.Text{ZH: "正在回原位", EN: "homing"}
	}
	return protocol.Text{ZH: fmt.Sprintf("未知动作（%d）", m), EN: fmt.Sprintf("unknown motion (%d)", m)}
}

// print writes the report for a technician, one thing a line.
func (r report) print(w io.Writer, zh bool) error {
	var b strings.Builder
	say := func(t protocol.Text) string {
		if zh {
			return t.ZH
		}
		return t.EN
	}
	line := func(label protocol.Text, value protocol.Text) {
		fmt.Fprintf(&b, "%s: %s\n", say(label), say(value))
	}
	both := func(s string) protocol.Text { return protocol.Text{ZH: s, EN: s} }
	choose := func(when bool, yes, no protocol.Text) protocol.Text {
		if when {
			return yes
		}
		return no
	}
	line(protocol.Text{ZH: "串口", EN: "Line"}, both(r.Port))
	line(protocol.Text{ZH: "序列号", EN: "Serial number"}, choose(r.Serial == serialText(0), protocol.Text{ZH: "未设置", EN: "none was ever set"}, both(r.Serial)))
	line(protocol.Text{ZH: "固件版本", EN: "Firmware build"}, protocol.Text{ZH: fmt.Sprintf("%s，协议 %d", r.Build, r.Protocol), EN: fmt.Sprintf("%s, protocol %d", r.Build, r.Protocol)})
	line(protocol.Text{ZH: "配置", EN: "Configuration"}, map[string]protocol.Text{
		configNone:     {ZH: "未写入，所有货道不转；kioskd 启动后写入", EN: "none was ever stored, and no slot turns: kioskd sends it when it starts"},
		configMachine:  {ZH: r.ConfigHash + "，与本机配置一致", EN: r.ConfigHash + ", this machine's"},
		configForeign:  {ZH: r.ConfigHash + "，与本机配置不一致；kioskd 启动后改写", EN: r.ConfigHash + ", not this machine's: kioskd sends that when it starts"},
		configStandard: {ZH: r.ConfigHash + "，标准配置（60 个单货道）", EN: r.ConfigHash + ", the standard one (60 single slots)"},
		configOther:    {ZH: r.ConfigHash + "，不是标准配置", EN: r.ConfigHash + ", not the standard one"}}[r.Config])
	line(protocol.Text{ZH: "已装货道", EN: "Fitted slots"}, slotsText(r.Fitted))
	line(protocol.Text{ZH: "不在原位的货道", EN: "Slots not at home"}, slotsText(r.NotHome))
	line(protocol.Text{ZH: "最大出货编号", EN: "Highest vend"}, both(strconv.FormatUint(uint64(r.HighestVend), 10)))
	line(protocol.Text{ZH: "启动次数", EN: "Boots"}, both(strconv.FormatUint(uint64(r.Boots), 10)))
	line(protocol.Text{ZH: "上次启动原因", EN: "Last boot because"}, resetCause(r.cause))
	line(protocol.Text{ZH: "已运行", EN: "Running for"}, both((time.Duration(r.UptimeMS) * time.Millisecond).Round(time.Second).String()))
	line(protocol.Text{ZH: "维护门", EN: "Service door"}, choose(r.DoorOpen, protocol.Text{ZH: "开", EN: "open"}, protocol.Text{ZH: "关", EN: "shut"}))
	line(protocol.Text{ZH: "门锁", EN: "Lock"}, choose(r.LockOpen, protocol.Text{ZH: "已通电打开", EN: "has power, open"}, protocol.Text{ZH: "已锁", EN: "locked"}))
	line(protocol.Text{ZH: "照明", EN: "Light"}, both(fmt.Sprintf("%d %%", r.Light)))
	sensor := choose(r.SensorDark, protocol.Text{ZH: "被遮挡", EN: "blocked"}, protocol.Text{ZH: "自检失败，看不见落物", EN: "blind: failed its self-test"})
	line(protocol.Text{ZH: "落物传感器", EN: "Drop sensor"}, choose(r.SensorOK, protocol.Text{ZH: "正常", EN: "good"}, sensor))
	line(protocol.Text{ZH: "自行落下", EN: "Fell by themselves"}, both(strconv.Itoa(int(r.Spontaneous))))
	climate := protocol.Text{ZH: "无读数", EN: "no reading"}
	if r.Climate != nil {
		climate = both(fmt.Sprintf("%.1f °C, %.0f %%", r.Climate.C, r.Climate.RH))
	}
	line(protocol.Text{ZH: "温湿度", EN: "Climate"}, climate)
	line(protocol.Text{ZH: "累计", EN: "In its life"}, protocol.Text{ZH: fmt.Sprintf("转动 %d 次，落下 %d 件", r.Turns, r.Drops), EN: fmt.Sprintf("%d turns, %d pieces seen", r.Turns, r.Drops)})
	motion := protocol.Text{ZH: "静止", EN: "still"}
	if r.motion != board.MotionNone {
		word := motionWord(r.motion)
		motion = protocol.Text{ZH: fmt.Sprintf("货道 %d %s", r.MotionSlot, word.ZH), EN: fmt.Sprintf("%s slot %d", word.EN, r.MotionSlot)}
	}
	line(protocol.Text{ZH: "电机", EN: "Motors"}, motion)
	latched := protocol.Text{ZH: "无", EN: "none"}
	if f := r.Latched; f != nil {
		latched = protocol.Text{ZH: fmt.Sprintf("%s %s", f.Fault.Code(), f.ZH), EN: fmt.Sprintf("%s %s", f.Fault.Code(), f.EN)}
		if f.Slot != 0 {
			latched = protocol.Text{ZH: fmt.Sprintf("%s（货道 %d）", latched.ZH, f.Slot), EN: fmt.Sprintf("%s (slot %d)", latched.EN, f.Slot)}
		}
	}
	line(protocol.Text{ZH: "锁定故障", EN: "Fault that stops all"}, latched)
	line(protocol.Text{ZH: "板上记录", EN: "Journal"}, choose(r.JournalOK, protocol.Text{ZH: "正常", EN: "good"}, protocol.Text{ZH: "无法写入，电机不转", EN: "takes no records: no motor turns"}))
	_, err := io.WriteString(w, b.String())
	return err
}

// slotsText names slots shortly: runs are written as ranges.
func slotsText(slots []int) protocol.Text {
	if len(slots) == 0 {
		return protocol.Text{ZH: "无", EN: "none"}
	}
	var parts []string
	for i := 0; i < len(slots); {
		j := i
		for j+1 < len(slots) && slots[j+1] == slots[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(slots[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", slots[i], slots[j]))
		}
		i = j + 1
	}
	s := strings.Join(parts, ", ")
	return protocol.Text{ZH: s, EN: s}
}

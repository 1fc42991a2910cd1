package protocol

import "fmt"

// Fault is the number of something that is wrong with a machine. The screen
// shows it to staff as F-nnn, the board reports it, the district raises an alert
// on it: one table for all three.
type Fault uint16

// Faults the motor board can see are 1 to 99; the daemon's own begin at 100.
const (
	FaultJam         Fault = 1  // current limit: the spiral is held fast
	FaultNoDrop      Fault = 2  // full turn and three half-turns, nothing fell
	FaultNoMotor     Fault = 3  // no current: motor absent or its wire is off
	FaultStuckHome   Fault = 4  // motor runs, home switch never opened
	FaultRunaway     Fault = 5  // never came back to home, cut off by its time limit
	FaultInterrupted Fault = 6  // power or reset in mid-turn
	FaultDoorOpened  Fault = 7  // service door opened in mid-turn
	FaultDoubleDrop  Fault = 8  // more than one piece fell in one vend
	FaultDropSensor  Fault = 9  // drop sensor blocked, or blind in its self-test
	FaultSpontaneous Fault = 10 // a piece fell while no motor ran
	FaultJournal     Fault = 11 // board memory does not take a record: no motor turns
	FaultNotHome     Fault = 12 // slot stands in mid-turn and waits for homing
	FaultClimate     Fault = 13 // climate sensor absent or not plausible
	FaultBoardReset  Fault = 14 // board restarted by its watchdog or a brown-out
	FaultSlow        Fault = 15 // turn took longer than the slot's usual time
	FaultShort       Fault = 16 // far more current than a motor can draw: its wires touch

	FaultBoardSilent Fault = 100 // motor board does not answer
	FaultBoardKnows  Fault = 101 // board claims to know a vend id that was just minted
	FaultReader      Fault = 102 // card reader does not answer
	FaultClock       Fault = 103 // time is not set
	FaultLedger      Fault = 104 // ledger cannot be written
	FaultDisk        Fault = 105 // disk nearly full
	FaultDoor        Fault = 106 // service door stands open
	FaultPaused      Fault = 107 // paused by the district or by staff
	FaultUnknownVend Fault = 108 // a vend whose end nobody knows
	FaultChain       Fault = 109 // event chain is broken; a new ledger was started
	FaultWrongDevice Fault = 110 // another device than the one that is to be there answers on a line
	FaultAccounts    Fault = 111 // staff accounts that the district sent could not be opened; those before stay

	// What only off-the-shelf vending boards have.
	FaultElevator  Fault = 120 // elevator failed
	FaultHatch     Fault = 121 // delivery door not closed
	FaultNotTaken  Fault = 122 // a piece still lies in the elevator
	FaultMicrowave Fault = 123 // microwave or its doors failed
)

// Severity says who has to act, and how soon.
type Severity uint8

const (
	Notice  Severity = 1 // nobody has to come
	Warning Severity = 2 // at the next visit
	Urgent  Severity = 3 // somebody has to come now; residents are not served
)

// FaultInfo is one line of the fault table.
type FaultInfo struct {
	Fault    Fault
	Name     string // in code: C gets FAULT_ before it
	Severity Severity
	ZH, EN   string // for staff and officers, without the slot
}

var faults = []FaultInfo{
	{FaultJam, "JAM", Warning, "货道卡住", "Slot jammed"},
	{FaultNoDrop, "NO_DROP", Warning, "转完未见用品落下", "Turned, but nothing fell"},
	{FaultNoMotor, "NO_MOTOR", Warning, "电机未接或断线", "Motor missing or disconnected"},
	{FaultStuckHome, "STUCK_HOME", Warning, "原位开关一直闭合", "Home switch never opened"},
	{FaultRunaway, "RUNAWAY", Urgent, "电机未停回原位，已强制断电", "Motor did not stop at home and was cut off"},
	{FaultInterrupted, "INTERRUPTED", Warning, "转动途中断电或重启", "Power or reset in mid-turn"},
	{FaultDoorOpened, "DOOR_OPENED", Notice, "转动途中打开了维护门", "Service door opened in mid-turn"},
	{FaultDoubleDrop, "DOUBLE_DROP", Warning, "一次落下多盒", "More than one box fell"},
	{FaultDropSensor, "DROP_SENSOR", Urgent, "落物传感器被挡或失灵", "Drop sensor blocked or blind"},
	{FaultSpontaneous, "SPONTANEOUS", Warning, "电机未转却有用品落下", "A box fell while no motor ran"},
	{FaultJournal, "JOURNAL", Urgent, "控制板存储失效", "Board memory failed"},
	{FaultNotHome, "NOT_HOME", Warning, "货道停在半圈，需回原位", "Slot stopped in mid-turn and needs homing"},
	{FaultClimate, "CLIMATE", Notice, "温湿度传感器无读数", "Climate sensor gives no reading"},
	{FaultBoardReset, "BOARD_RESET", Notice, "控制板曾自动重启", "Motor board restarted by itself"},
	{FaultSlow, "SLOW", Notice, "电机转动偏慢", "Motor turns slowly"},
	{FaultShort, "SHORT", Urgent, "电机短路", "Motor or its wires short-circuited"},
	{FaultBoardSilent, "BOARD_SILENT", Urgent, "控制板无响应", "Motor board does not answer"},
	{FaultBoardKnows, "BOARD_KNOWS", Urgent, "控制板与账本编号冲突", "Board and ledger disagree about a number"},
	{FaultReader, "READER", Urgent, "读卡器无响应", "Card reader does not answer"},
	{FaultClock, "CLOCK", Urgent, "时间未校准", "Time is not set"},
	{FaultLedger, "LEDGER", Urgent, "账本无法写入", "Ledger cannot be written"},
	{FaultDisk, "DISK", Urgent, "存储空间不足", "Disk nearly full"},
	{FaultDoor, "DOOR", Urgent, "维护门未关", "Service door open"},
	{FaultPaused, "PAUSED", Notice, "已暂停发放", "Paused"},
	{FaultUnknownVend, "UNKNOWN_VEND", Warning, "一次出货结果待核实", "The end of one vend is not known"},
	{FaultChain, "CHAIN", Warning, "账本校验失败，已启用新账本", "Ledger failed its check; a new one was started"},
	{FaultWrongDevice, "WRONG_DEVICE", Warning, "设备接错位置", "A device is plugged in in the wrong place"},
	{FaultAccounts, "ACCOUNTS", Warning, "工作人员账号未能更新", "Staff accounts could not be updated"},
	{FaultElevator, "ELEVATOR", Urgent, "升降机故障", "Elevator failed"},
	{FaultHatch, "HATCH", Urgent, "取货门未关", "Delivery door not closed"},
	{FaultNotTaken, "NOT_TAKEN", Urgent, "升降机内有未取用品", "A box still lies in the elevator"},
	{FaultMicrowave, "MICROWAVE", Urgent, "微波炉部件故障", "Microwave or its doors failed"},
}

// Faults returns the fault table, lowest number first.
func Faults() []FaultInfo { return append([]FaultInfo(nil), faults...) }

// Info returns the line of f; ok is false for a number this version does not know.
func (f Fault) Info() (info FaultInfo, ok bool) {
	for _, i := range faults {
		if i.Fault == f {
			return i, true
		}
	}
	return FaultInfo{Fault: f, Name: "UNKNOWN", Severity: Warning, ZH: "未知故障", EN: "Unknown fault"}, false
}

// Code is the number as staff read it off the screen: F-002.
func (f Fault) Code() string { return fmt.Sprintf("F-%03d", uint16(f)) }

package gs1

import (
	"fmt"
	"strings"
)

// Problem is why a code was not taken. The screen shows its words.
type Problem string

// The problems.
const (
	Foreign     Problem = "foreign"     // not a code of a carton at all
	Separator   Problem = "separator"   // a separator is missing, so that the code says two things
	UnknownAI   Problem = "unknown"     // a part begins with a number that no standard has
	CheckDigit  Problem = "check-digit" // a number that cannot be
	Length      Problem = "length"      // a part is too short or too long
	Characters  Problem = "characters"  // a part has signs that do not belong there
	Date        Problem = "date"        // a day that does not exist
	Contradicts Problem = "contradicts" // two parts say different things
	NoProduct   Problem = "no-product"  // a good code that names no product
)

// Words is what a person at the carton should do.
func (p Problem) Words() (zh, en string) {
	switch p {
	case Foreign:
		return "这不是药具包装上的码，请扫盒上的条码或二维码", "This is not a code of a carton: scan the bar code or square code on the box"
	case Separator:
		return "扫描枪没有发送分隔符，请按说明书把扫描枪设为发送 GS（ASCII 29），或手工输入批号和有效期",
			"The scanner leaves out separators: set it to send GS (ASCII 29), or type batch and expiry from the print"
	case UnknownAI, Length, Characters:
		return "码没有读全或扫描枪设置不对，请再扫一次；仍不行就手工输入批号和有效期",
			"The code did not come whole, or the scanner is set wrongly: scan again, or type batch and expiry from the print"
	case CheckDigit:
		return "编号没有读对，请再扫一次；仍不行就换一盒同批的扫", "The number was misread: scan again, or scan another box of the batch"
	case Date:
		return "码里的日期不存在，请按盒上印的手工输入有效期", "The code has a day that does not exist: type the expiry as printed on the box"
	case Contradicts:
		return "码里的内容前后不一致，请勿装入，联系区里", "The code contradicts itself: do not load it, call the district"
	case NoProduct:
		return "这个码里没有产品编号，请扫盒上的另一个码", "This code names no product: scan the other code on the box"
	}
	return "请再扫一次", "Scan again"
}

// Error is a code that was not taken: what is wrong, and where.
type Error struct {
	Problem Problem
	At      int    // the character it is about, counted from 1 with the AIM identifier; 0 is the whole
	Field   string // the part it is about, such as "batch (10)"; empty: none
	What    string // what is wrong with it
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.What)
	if e.At > 0 {
		fmt.Fprintf(&b, ", at character %d", e.At)
	}
	_, en := e.Problem.Words()
	b.WriteString(". " + en)
	return b.String()
}

package words

import (
	"fmt"
	"time"
)

var weekdays = [...]string{"星期日", "星期一", "星期二", "星期三", "星期四", "星期五", "星期六"}

// Date writes a day with its weekday: 12月9日（星期三）, Wed 9 Dec.
func Date(lang string, t time.Time) string {
	if lang == "en" {
		return t.Format("Mon 2 Jan")
	}
	return fmt.Sprintf("%s（%s）", Day(lang, t), weekdays[t.Weekday()])
}

// Day writes a day alone: 11月25日, 25 Nov.
func Day(lang string, t time.Time) string {
	if lang == "en" {
		return t.Format("2 Jan")
	}
	return fmt.Sprintf("%d月%d日", t.Month(), t.Day())
}

// DateTime writes a moment to the minute: 11月23日 星期一 14:32, Mon 23 Nov 14:32.
func DateTime(lang string, t time.Time) string {
	if lang == "en" {
		return t.Format("Mon 2 Jan 15:04")
	}
	return fmt.Sprintf("%s %s %s", Day(lang, t), weekdays[t.Weekday()], t.Format("15:04"))
}

package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"yaoju/protocol"
)

// touchesEach is how many touches and scans one slot may cost.
const touchesEach = 3

// A restocker fills twenty slots at the real screen: door, staff card, PIN, then a
// scan and two touches a slot. What the ledger says afterwards is what was put in.
func TestRestock(t *testing.T) {
	t.Parallel()
	var bays []bay
	for i := range 20 {
		b := bayOf(protocol.Slot(i/5*protocol.Columns+i%5+1), products[i/5].ID, 2, "2029-01-31")
		bays = append(bays, b)
	}
	p := quick(t, bays...)
	p.staff = true
	tn := open(t, p)
	w := newWorkbench(tn.rig, tn.bays, "http://"+tn.screen+"/", "http://"+tn.console+"/", time.Now().In(tn.zone))
	touches := 0
	bench := func(what, arg string) {
		t.Helper()
		if err := w.perform(t.Context(), what, arg); err != nil {
			t.Fatal(err)
		}
	}
	page := browse(t)
	page.open("http://"+tn.screen+"/", 1080, 1920)
	page.screen("attract")
	touch := func(selector string) {
		t.Helper()
		touches++
		if err := chromedp.Do(page.ctx, chromedp.Click(selector)); err != nil {
			t.Fatalf("touch %s: %v", selector, err)
		}
	}
	bench("door", "")
	page.screen("staffdoor")
	page.picture("staff-door")
	bench("badge", "")
	page.screen("staffpin")
	for i, d := range restockerPIN {
		page.await(fmt.Sprintf(`document.querySelectorAll('.dots .f').length === %d`, i))
		touch(fmt.Sprintf(`[data-tap=digit][data-arg="%c"]`, d))
	}
	page.screen("staffwork")
	page.picture("staff-grid")
	const quiet = `new Promise((done) => setTimeout(() => done(true), 420))` // a second touch within 400 ms is ignored
	touches = 0
	for _, b := range bays {
		bench("carton", letterOf(b.product))
		touches++
		page.await(`document.querySelector('.msg:not(.bad)') !== null`)
		eval[bool](page, quiet)
		touch(fmt.Sprintf(`[data-tap=slot][data-arg="%d"]`, b.slot))
		page.await(`document.querySelector('.p-load') !== null`)
		if b == bays[0] {
			page.picture("staff-slot")
		}
		eval[bool](page, quiet)
		touch(`[data-tap=save]`)
		page.await(fmt.Sprintf(`document.querySelector('.p-need') !== null && document.querySelector('[data-tap=slot][data-arg="%d"].m-done') !== null`, b.slot))
	}
	if touches > touchesEach*len(bays) {
		t.Errorf("%d touches and scans for %d slots, want at most %d each", touches, len(bays), touchesEach)
	}
	eval[bool](page, quiet)
	touch(`[data-tap=finish]`)
	page.screen("staffdone")
	page.picture("staff-done")
	page.axe("staffdone")
	bench("fill", "")
	bench("door", "")
	page.screen("attract")
	for _, c := range page.complaints() {
		t.Errorf("the browser said: %s", c)
	}

	if err := tn.stop(); err != nil {
		t.Fatal(err)
	}
	book := tn.audit(t)
	for _, b := range bays {
		queue, err := book.Batches(t.Context(), b.slot)
		if err != nil {
			t.Fatal(err)
		}
		if len(queue) != 2 || queue[0].Batch != b.batch || queue[0].Pieces != b.pieces ||
			queue[1].Batch[0] != 'N' || queue[1].Pieces != b.capacity-b.pieces || queue[1].Product != b.product {
			t.Errorf("slot %d holds %+v, want %d of %s in front of %d new ones", b.slot, queue, b.pieces, b.batch, b.capacity-b.pieces)
		}
	}
}

func letterOf(id protocol.ProductID) string {
	for _, p := range products {
		if p.ID == id {
			return p.Letter
		}
	}
	return ""
}

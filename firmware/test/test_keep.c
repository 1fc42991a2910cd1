/* What the board keeps beside its vends: boots, counters, marks and configuration. */
#include "check.h"
#include "host.h"

#include "../core/journal.h"

#include <string.h>

enum { CONFIG_AT = JOURNAL_END, PAGES_AT = CONFIG_AT + 64, PAGES = 16, BLOCK = 32 };

static uint32_t power_and_boots(void)
{
	reboot();
	return hello().boot;
}

/* Each boot has its number, and whoever was told one was told a number of its own:
 * power fails as soon as the board has answered. */
static void boots(void)
{
	fake_new();
	for (uint32_t boot = 1; boot < 40; boot++) {
		fake_boot(RESET_POWER);
		CHECK(board_answers(300));
		EQ(hello().boot, boot);
		EQ(status().boot, boot);
		fake_cut();
	}
}

/* Bytes that come before the boot is on record are not answered, then or later. */
static void silent_at_boot(void)
{
	struct answer a;

	new_board();
	fake_cut();
	fake_boot(RESET_POWER);
	for (int ms = 0; ms < 100; ms++) {
		uint8_t frame[16], n = host_frame(frame, MSG_PING, (uint8_t)ms, NULL, 0);

		fake_send(frame, n);
		fake_tick(1);
		CHECK(!host_answer(&a));
	}
	fake_tick(200);
	CHECK(!host_answer(&a));
	CHECK(ping());
}

/* Power fails in each byte of a boot's page: numbers go up, and nothing is lost. */
static void torn_page(void)
{
	static const uint8_t torn[] = { 0x00, 0xff, 0x5a };

	for (unsigned i = 0; i < sizeof torn; i++) {
		for (uint32_t cut = 1; cut <= BLOCK; cut++) {
			uint32_t told;

			new_board();
			vend_all(1, 1);
			wait_ms(500);
			fake_slot(3)->jam = true;
			vend_all(2, 3);
			wait_ms(500);
			told = hello().boot;
			fake_cut();
			fake.cut_in = cut;
			fake.torn = torn[i];
			fake_boot(RESET_POWER);
			fake.cut_in = cut;
			fake_tick(300);
			CHECK(power_and_boots() > told);
			EQ(status().turns, 2);
			EQ(status().drops, 1);
			CHECK(has_bit(status().not_home, 3));
			CHECK(!has_bit(status().not_home, 1));
		}
	}
}

/* The pages take turns: no cell is written twice before all have been once. */
static void pages_take_turns(void)
{
	uint8_t before[HAL_EE_SIZE];

	new_board();
	for (int boot = 0; boot < 2 * PAGES; boot++) {
		unsigned pages = 0;

		memcpy(before, fake.ee, sizeof before);
		reboot();
		for (unsigned i = 0; i < PAGES; i++)
			pages += !!memcmp(before + PAGES_AT + i * BLOCK, fake.ee + PAGES_AT + i * BLOCK, BLOCK);
		EQ(pages, 1);
		EQ(memcmp(before, fake.ee, PAGES_AT), 0);
	}
}

/* Without a page the journal alone tells. */
static void no_page(void)
{
	new_board();
	vend_all(1, 1);
	fake_slot(2)->twice = true;
	vend_all(2, 2);
	fake_slot(3)->runaway = true;
	fake_slot(3)->pieces = 1;
	vend_all(3, 3);
	memset(fake.ee + PAGES_AT, 0xff, PAGES * BLOCK);
	EQ(power_and_boots(), 1);
	EQ(status().turns, 3);
	EQ(status().drops, 4);
	EQ(status().latched, FAULT_RUNAWAY);
	CHECK(has_bit(status().not_home, 3));
}

/* Power fails right after the end of a vend is known: its counts are folded in. */
static void folded(void)
{
	for (int after = 0; after < 200; after += 7) {
		new_board();
		fake_slot(1)->twice = true;
		vend_all(1, 1);
		wait_ms((uint32_t)after);
		reboot();
		EQ(status().turns, 1);
		EQ(status().drops, 2);
		CHECK(!has_bit(status().not_home, 1));
		wait_ms(500);
		reboot();
		EQ(status().turns, 1);
		EQ(status().drops, 2);
	}
}

static uint32_t stored_hash(void)
{
	fake_cut();
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	return hello().hash;
}

static void configuration(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];
	uint32_t first, second, writes;
	struct hello h;

	new_board();
	usual_config(p);
	first = hello().hash;
	CHECK(first != 0);
	EQ(stored_hash(), first);
	writes = fake.ee_writes;
	EQ(configure(p).hash, first);
	wait_ms(500);
	EQ(fake.ee_writes, writes);			/* stored already */
	p[0] = 0x0f;
	set_u16(p, MSG_CONFIGURE_SLOW_MS, 1111);
	h = configure(p);
	second = h.hash;
	CHECK(second != first);
	EQ(h.fitted[0], 0x0f);				/* in force at once */
	EQ(vend(1, 6).reason, NAK_BAD_SLOT);
	wait_ms(500);
	EQ(stored_hash(), second);
	EQ(hello().fitted[0], 0x0f);
	EQ(vend_all(1, 1).cause, FAULT_SLOW);

	/* The newer copy goes bad: the one before is in force. */
	for (int copy = 0; copy < 2; copy++) {
		uint8_t *b = fake.ee + CONFIG_AT + copy * BLOCK;

		if (b[0] == 0x0f)
			b[5] ^= 1;
	}
	EQ(stored_hash(), first);
	fake.ee[CONFIG_AT + 3] ^= 0x80;
	fake.ee[CONFIG_AT + BLOCK + 3] ^= 0x80;
	EQ(stored_hash(), 0);				/* both are bad: none */
	EQ(hello().fitted[0], 0);
	EQ(vend(2, 1).reason, NAK_BAD_SLOT);
	EQ(configure(p).hash, second);
	EQ(vend(2, 1).state, STATE_RUNNING);		/* pre-empts its storing */
	vend_over(2);
	wait_ms(500);
	EQ(stored_hash(), second);
}

/* Power fails in each byte of a new configuration: the old one or the new, whole. */
static void torn_configuration(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];
	uint32_t olds = 0;

	for (uint32_t cut = 1; cut <= BLOCK; cut++) {
		uint32_t first, second, got;

		new_board();
		first = hello().hash;
		usual_config(p);
		for (uint8_t i = 0; i < 7; i++)
			p[i] = 0xaa;
		set_u16(p, MSG_CONFIGURE_TURN_MS, 6000);
		second = configure(p).hash;
		fake.cut_in = cut;
		fake.torn = 0x33;
		fake_tick(500);
		got = stored_hash();
		CHECK(got == first || got == second);
		olds += got == first;
	}
	CHECK(olds > 8);
}

/* A worn cell costs its page; three in a row are called JOURNAL, and held motion is
 * refused too; a new try mends it. */
static void worn_pages(void)
{
	for (unsigned bad = 1; bad <= 4; bad++) {
		struct status s;

		check_in(bad < 3 ? "pages are left" : "no page is left");
		new_board();
		for (unsigned i = 0; i < PAGES; i++)
			if (bad >= 3 || i % 4 < bad)
				fake.stuck[PAGES_AT + i * BLOCK + 4] = 0x80;
		fake_cut();
		fake_boot(RESET_POWER);
		CHECK(board_answers(1000));
		s = status();
		EQ(s.journal_bad, bad >= 3);
		EQ(hello().boot, 2);
		EQ(vend(1, 1).kind, bad >= 3 ? MSG_NAK : MSG_VEND_STATE);
		if (bad < 3) {
			EQ(vend_over(1).cause, 0);
			continue;
		}
		EQ(hold(1, MOTION_HOME, 1).reason, NAK_JOURNAL);
		memset(fake.stuck, 0, sizeof fake.stuck);
		CHECK(!clear(FAULT_JOURNAL).journal_bad);
		wait_ms(500);
		CHECK(!status().journal_bad);
		EQ(power_and_boots(), 3);		/* the page that was owed has been written */
	}
	check_in(0);
}

/* The configuration finds no cell that takes it: in force, not stored, and said. */
static void worn_configuration(void)
{
	uint8_t p[MSG_CONFIGURE_LEN];
	uint32_t first;

	new_board();
	first = hello().hash;
	fake.stuck[CONFIG_AT + 6] = fake.stuck[CONFIG_AT + BLOCK + 6] = 0xf0;
	usual_config(p);
	p[6] = 0;
	CHECK(configure(p).hash != first);
	wait_ms(2000);
	CHECK(status().journal_bad);
	reboot();
	CHECK(hello().hash != 0 || first != 0);
	EQ(hello().kind, MSG_HELLO_IS);
}

/* Counters and marks that a record preempts are written after it. */
static void preempted(void)
{
	new_board();
	vend_all(1, 1);
	EQ(vend(2, 2).state, STATE_RUNNING);		/* the page of vend 1 is on its way */
	vend_over(2);
	EQ(vend(3, 3).state, STATE_RUNNING);
	vend_over(3);
	wait_ms(500);
	reboot();
	EQ(status().turns, 3);
	EQ(status().drops, 3);
	memset(fake.ee + JOURNAL_AT, 0xff, JOURNAL_END - JOURNAL_AT);
	reboot();
	EQ(status().turns, 3);				/* from the page alone */
	EQ(status().drops, 3);
}

void test_keep(void)
{
	boots();
	silent_at_boot();
	torn_page();
	pages_take_turns();
	no_page();
	folded();
	configuration();
	torn_configuration();
	worn_pages();
	worn_configuration();
	preempted();
}

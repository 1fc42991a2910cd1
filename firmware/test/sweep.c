/* Power fails everywhere: in every byte that a vend writes, with every value left
 * in that byte; again while the board recovers; and in every millisecond of a vend
 * and of a test. Each time the board boots, is asked, and is told the same vend
 * again, as a host would. Whatever happens, no vend turns twice, and what the board
 * says of a vend is what happened to it. */
#include "host.h"

#include <stdio.h>
#include <string.h>

enum {
	SLOT = 4,		/* of the vend that is cut */
	ID = 510,
	OLD = 500, ALSO = 505, CUT = 507,	/* older vends; the last was interrupted */
	FAST_MS = 250,		/* one turn */
};

/* What the board is on which everything is tried. */
struct scene {
	const char *name;
	bool full;		/* the ring has been written all round */
	bool twice, jam, empty;
	unsigned step;		/* between values of the torn byte */
};

static const struct scene scenes[] = {
	{ .name = "new ring", .step = 1 },
	{ .name = "full ring", .full = true, .step = 1 },
	{ .name = "two pieces", .twice = true, .step = 51 },
	{ .name = "jam", .jam = true, .step = 51 },
	{ .name = "nothing falls", .empty = true, .step = 85 },
};

static struct fake base;	/* before the vend, without power */
static struct status was;	/* and what the board said then */
static unsigned long cases, bad;
static unsigned tally[STATE_SKIPPED + 1][2];
static char where[120];

static bool must(bool good, const char *what, int line)
{
	if (good)
		return true;
	if (bad++ < 20)
		printf("test/sweep.c:%d: %s: not so: %s\n", line, where, what);
	return false;
}
#define MUST(x) must(x, #x, __LINE__)

static void boot(void)
{
	fake_boot(RESET_POWER);
	MUST(board_answers(300));
}

static void set_scene(const struct scene *s)
{
	new_board();
	for (uint8_t i = 0; i < LIM_SLOTS; i++) {
		fake.slot[i].turn_ms = FAST_MS;
		fake.slot[i].pieces = 200;
	}
	for (uint32_t id = 100; s->full && id < 180; id++)
		vend_all(id, 9);
	vend_all(OLD, 1);
	vend_all(ALSO, 2);
	vend(CUT, 3);
	until_motor(true);
	fake_tick(FAST_MS / 2);
	fake_cut();
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	wait_ms(500);
	was = status();
	fake_slot(SLOT)->twice = s->twice;
	fake_slot(SLOT)->jam = s->jam;
	if (s->empty)
		fake_slot(SLOT)->pieces = 0;
	fake_cut();
	base = fake;
}

/* The board of the scene, booted, and the vend begun. */
static void begin(void)
{
	fake = base;
	fake_boot(RESET_POWER);
	KEEP(board_answers(300));
	was.boot = status().boot;
	vend(ID, SLOT);
}

static bool settled(void)
{
	struct vend v = vend_over(ID);

	wait_ms(400);	/* the checkpoint */
	return v.state == STATE_ENDED;
}

/* Older vends are remembered as they were, and nothing between them has turned. */
static void check_history(void)
{
	struct vend v = query(OLD);

	MUST(v.state == STATE_ENDED && v.drops == 1 && v.slot == 1 && v.cause == 0);
	v = query(ALSO);
	MUST(v.state == STATE_ENDED && v.drops == 1 && v.slot == 2);
	v = query(CUT);
	MUST(v.state == STATE_INTERRUPTED && v.slot == 3);
	MUST(query(OLD + 1).state == STATE_SKIPPED);
	MUST(query(CUT + 1).state == STATE_SKIPPED || hello().highest == CUT);
	MUST(has_bit(status().not_home, 3));
}

/* What must hold of the vend, starts motor starts and fallen pieces after its beginning. */
static struct vend check_vend(uint32_t starts, uint32_t fallen)
{
	struct vend v = query(ID);
	struct status s = status();
	uint32_t highest = hello().highest;
	bool known = v.state == STATE_ENDED || v.state == STATE_INTERRUPTED;

	MUST(known || v.state == STATE_NONE);
	MUST(starts == 0 || known);
	MUST(highest == (known ? ID : CUT));
	MUST(v.state != STATE_ENDED || starts > 0);
	MUST(v.drops <= fallen);
	MUST(v.state != STATE_ENDED || v.drops == fallen);
	MUST(s.turns == was.turns + known);
	MUST(s.drops == was.drops + v.drops + s.spontaneous);	/* a piece in the air falls while the board boots */
	MUST(s.boot > was.boot);
	MUST(has_bit(s.not_home, SLOT) || fake_slot(SLOT)->pos < TURN_HOME);
	MUST(has_bit(s.not_home, SLOT) || v.state != STATE_INTERRUPTED);
	MUST(!has_bit(s.not_home, SLOT) || v.state != STATE_ENDED || fake_slot(SLOT)->pos >= TURN_HOME);
	return v;
}

/* The board has lost power: it boots, and the host repeats what it wanted. */
static void recover(uint32_t starts_at, uint32_t fallen_at)
{
	uint32_t starts = fake.on_count - starts_at;
	struct vend v, again;

	cases++;
	boot();
	fake_tick(200);		/* what was in the air has fallen */
	check_history();
	v = check_vend(starts, fake.fallen - fallen_at);
	tally[v.state <= STATE_SKIPPED ? v.state : 0][starts > 0]++;
	again = vend(ID, SLOT);
	if (v.state == STATE_NONE) {
		MUST(again.state == STATE_RUNNING);
		MUST(settled());
		MUST(fake.on_count > starts_at);
	} else {
		MUST(again.state == v.state && again.repeat && again.drops == v.drops && again.cause == v.cause);
		fake_tick(300);
		MUST(fake.on_count - starts_at == starts);
	}
	check_history();
	check_vend(fake.on_count - starts_at, fake.fallen - fallen_at);
}

/* Runs the vend up to its n-th write; true if power has failed there. */
static bool cut_at_write(uint32_t n)
{
	begin();
	fake.cut_in = n;
	settled();
	return fake.dead;
}

/* Power fails again in the n-th write of the recovery, or of the vend that it lets run. */
static bool cut_again(const struct fake *first, uint32_t n, uint8_t torn)
{
	fake = *first;
	fake_boot(RESET_POWER);
	fake.cut_in = n;
	fake.torn = torn;
	if (board_answers(300) && vend(ID, SLOT).state == STATE_RUNNING)
		settled();
	else
		fake_tick(400);
	return fake.dead;
}

static void sweep_writes(const struct scene *s)
{
	uint32_t writes = 0;

	while (cut_at_write(writes + 1)) {
		struct fake first = fake;
		uint32_t starts_at = base.on_count, fallen_at = base.fallen;

		writes++;
		for (unsigned torn = 0; torn < 256; torn += s->step) {
			fake = first;
			fake.ee[fake.ee_at] = (uint8_t)torn;
			snprintf(where, sizeof where, "%s, write %u, torn %02x", s->name, writes, torn);
			recover(starts_at, fallen_at);
		}
		for (unsigned torn = 0x5a; torn < 256; torn += 0xff - 0x5a) {
			first.ee[first.ee_at] = (uint8_t)torn;
			for (uint32_t n = 1; cut_again(&first, n, 0x3c); n++) {
				snprintf(where, sizeof where, "%s, write %u, torn %02x, and write %u after it", s->name, writes, torn, n);
				recover(starts_at, fallen_at);
			}
		}
	}
	snprintf(where, sizeof where, "%s", s->name);
	MUST(writes >= 3 * 13);	/* of START, END and a checkpoint: the sweep has met them */
	printf("%s: %u writes\n", s->name, writes);
}

/* And in every millisecond, with the byte that is being written whole or not. */
static void sweep_time(const struct scene *s)
{
	bool over = false;

	for (uint32_t ms = 0; !over; ms++) {
		for (int torn = 0; torn < 2; torn++) {
			begin();
			fake_tick(ms);
			over = query(ID).state == STATE_ENDED;
			if (torn)
				fake_torn(0xa5);
			else
				fake_cut();
			snprintf(where, sizeof where, "%s, cut after %u ms%s", s->name, ms, torn ? ", torn" : "");
			recover(base.on_count, base.fallen);
		}
	}
}

/* A test is cut in every write and every millisecond: a spiral that may stand away
 * from home is never offered again, and older vends are as they were. */
static void sweep_hold(void)
{
	for (uint32_t at = 1; at < 600; at++) {
		for (int by_write = 0; by_write < 2; by_write++) {
			struct status s;

			fake = base;
			fake_boot(RESET_POWER);
			KEEP(board_answers(300));
			was.boot = status().boot;
			if (by_write) {
				fake.cut_in = at;
				fake.torn = 0x66;
			}
			hold(SLOT, MOTION_TEST, 1);
			for (uint32_t ms = 0; ms < (by_write ? 900 : at); ms++) {
				fake_tick(1);
				if (ms % 100 == 99)
					hold(SLOT, MOTION_TEST, 1);
			}
			snprintf(where, sizeof where, "test, cut %s %u", by_write ? "in write" : "after ms", at);
			cases++;
			fake_cut();
			boot();
			s = status();
			MUST(fake_slot(SLOT)->pos < TURN_HOME || has_bit(s.not_home, SLOT));
			MUST(fake_slot(SLOT)->pos < TURN_HOME || s.turns == was.turns + 1);
			MUST(s.turns - was.turns <= 1);
			MUST(s.boot > was.boot);
			MUST(hello().highest == CUT);
			check_history();
		}
	}
}

int main(void)
{
	for (unsigned i = 0; i < sizeof scenes / sizeof *scenes; i++) {
		set_scene(&scenes[i]);
		sweep_writes(&scenes[i]);
		if (i < 2)
			sweep_time(&scenes[i]);
		if (i == 0)
			sweep_hold();
	}
	for (unsigned s = 0; s <= STATE_SKIPPED; s++)
		for (unsigned k = 0; k < 2; k++)
			if (tally[s][k])
				printf("state %u, motor %s: %u\n", s, k ? "had power" : "never had power", tally[s][k]);
	printf("%lu cases, %lu broke a rule\n", cases, bad);
	return bad != 0;
}

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * boardsim [--eeprom FILE] [--serial N] [--seed N] [--pty LINK] motor.elf
 *
 * commands.c says what stdin takes. There are two ways to run:
 *   lock step   time passes only in the command run
 *   --pty LINK  time passes as it does outside, and the serial line is a pty */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum {
	PACE_US = 1000,		/* of a step in real time: well under a host's patience */
	STALL_US = 50000,	/* who is so late does not catch up */
};

static int pty_master, pty_slave;
static const char *pty_link;

static void pty_unlink(void) { unlink(pty_link); }

static void pty_open(const char *link)
{
	struct termios raw;
	char name[64];

	if (openpty(&pty_master, &pty_slave, name, NULL, NULL) < 0)
		log_fatal("cannot open a pty: %s", strerror(errno));
	tcgetattr(pty_slave, &raw);
	cfmakeraw(&raw);
	tcsetattr(pty_slave, TCSANOW, &raw);
	fcntl(pty_master, F_SETFL, O_NONBLOCK);	/* the slave stays open here: no EIO between two clients */
	unlink(link);
	if (symlink(name, link) < 0)
		log_fatal("cannot make the link %s: %s", link, strerror(errno));
	pty_link = link;
	atexit(pty_unlink);
}

static void pty_move(void)
{
	uint8_t buf[512];
	const uint8_t *p;
	unsigned n = line_take(&p);
	ssize_t r = read(pty_master, buf, sizeof buf);

	if (r > 0)
		line_send(buf, (unsigned)r);
	if (n > 0 && write(pty_master, p, n) < 0)
		return;		/* nobody reads: bytes on a line without a listener are gone */
	/* A client that was killed leaves the slave exclusive, because it is open here too. */
	ioctl(pty_slave, TIOCNXCL);
}

static uint64_t wall_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void pty_run(const char *link)
{
	uint64_t wall, start;
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	pty_open(link);
	commands_begin();
	for (wall = wall_us(), start = chip_now(); !commands_over();) {
		uint64_t done = (chip_now() - start) / CYC_US, due = wall_us() - wall;

		if (due > done + STALL_US) {
			wall += due - done;
			due = done;
		}
		for (; done < due; done += PACE_US)
			chip_run(PACE_US * CYC_US, false);
		pty_move();
		if (poll(&in, 1, 1) > 0)
			commands_read();
	}
}

static void usage(void)
{
	fprintf(stderr, "usage: boardsim [--eeprom FILE] [--serial N] [--seed N] [--pty LINK] motor.elf\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "eeprom", required_argument, NULL, 'e' }, { "serial", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 'r' }, { "pty", required_argument, NULL, 'p' }, { 0 },
	};
	struct chip_options o = { .seed = 1 };
	const char *link = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'e':
			o.eeprom = optarg;
			break;
		case 's':
			o.serial = strtoull(optarg, NULL, 10);
			break;
		case 'r':
			o.seed = (uint32_t)strtoull(optarg, NULL, 10);
			break;
		case 'p':
			link = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind + 1 != argc)
		usage();
	o.elf = argv[optind];
	chip_init(&o);
	if (link != NULL) {
		pty_run(link);
		return 0;
	}
	commands_begin();
	while (!commands_over())
		commands_read();
	return 0;
}

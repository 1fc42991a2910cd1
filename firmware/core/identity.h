/* Who a board is, at a fixed place in flash, so that `yaoju board flash` can read
 * the build from a HEX file and write the board's serial number into it. Numbers
 * are little-endian. */
#ifndef IDENTITY_H
#define IDENTITY_H

#define IDENTITY_AT      0x3fe0UL	/* byte address in flash */
#define IDENTITY_MAGIC   "YAOJU\0MB"	/* 8 bytes, at 0 */
#define IDENTITY_BUILD   8		/* u32: CRC-32 of the sources */
#define IDENTITY_PROTO   12		/* u8: PROTO_VERSION */
#define IDENTITY_SERIAL  16		/* u64: all ones until set */
#define IDENTITY_LEN     24

#endif

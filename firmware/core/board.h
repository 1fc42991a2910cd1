/* The board: from question to answer. It owns the rules of who is answered what;
 * they are in the text of protocol/board. */
#ifndef BOARD_H
#define BOARD_H

void board_init(void);	/* once, with the hal up */
void board_poll(void);	/* at least once a millisecond */

#endif

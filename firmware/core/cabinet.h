/* What hangs on the board beside motors: the drop sensor, the door, the lock and
 * the light, and the host that may fall silent. It knows nothing of vends. */
#ifndef CABINET_H
#define CABINET_H

#include <stdbool.h>
#include <stdint.h>

void cabinet_init(void);	/* starts a test of the drop sensor */
void cabinet_poll(void);
void cabinet_heard(void);	/* a good frame came */

void cabinet_test(void);	/* tests the drop sensor; a few milliseconds */
bool cabinet_testing(void);
uint8_t cabinet_curtain(void);	/* CURTAIN_ in proto.h */
bool cabinet_dark(void);	/* something stands in the drop sensor */
bool cabinet_sensor_bad(void);	/* dark or blind, after the last test */

uint8_t cabinet_drops(void);	/* pieces seen since the last call */
void cabinet_stray(uint8_t n);	/* so many of them fell while nothing was watched */
uint16_t cabinet_strays(void);
void cabinet_strays_clear(void);

void cabinet_light(uint8_t percent);
uint8_t cabinet_light_is(void);

#endif

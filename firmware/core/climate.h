/* Temperature and humidity of the cabinet, from an SHT3x. A sensor that is absent
 * or talks nonsense gives no reading: never a zero, never an old one for long. */
#ifndef CLIMATE_H
#define CLIMATE_H

#include <stdbool.h>
#include <stdint.h>

void climate_init(void);
void climate_poll(void);
bool climate_known(void);
int16_t climate_centi_c(void);		/* 0.01 degrees Celsius; 0 if not known */
uint16_t climate_centi_rh(void);	/* 0.01 percent; 0 if not known */

#endif

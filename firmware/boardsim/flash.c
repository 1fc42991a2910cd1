/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * simavr's own loader knows only the sections .text and .data; the identity lies
 * in another, so the segments are loaded as a programmer would. */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/identity.h"
#include "sim.h"

/* avr-ld puts RAM at 0x800000 and EEPROM at 0x810000; below is flash. */
enum { FLASH_TOP = 0x800000, ELF_MAX = 4 << 20 };

static uint8_t *flash_read(const char *path, size_t *len)
{
	uint8_t *buf = malloc(ELF_MAX);
	FILE *f = fopen(path, "rb");

	if (f == NULL || buf == NULL)
		log_fatal("cannot open %s", path);
	*len = fread(buf, 1, ELF_MAX, f);
	fclose(f);
	return buf;
}

void flash_load(avr_t *avr, const char *elf)
{
	size_t len, loaded = 0;
	uint8_t *buf = flash_read(elf, &len);
	Elf32_Ehdr e;

	if (len < sizeof e)
		log_fatal("%s is no ELF file", elf);
	memcpy(&e, buf, sizeof e);
	if (memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS32 || e.e_machine != EM_AVR)
		log_fatal("%s is no ELF file for an AVR", elf);
	for (unsigned i = 0; i < e.e_phnum; i++) {
		size_t at = e.e_phoff + (size_t)i * sizeof(Elf32_Phdr);
		Elf32_Phdr p;

		if (at + sizeof p > len)
			log_fatal("%s is cut short", elf);
		memcpy(&p, buf + at, sizeof p);
		if (p.p_type != PT_LOAD || p.p_filesz == 0 || p.p_paddr >= FLASH_TOP)
			continue;
		if ((size_t)p.p_offset + p.p_filesz > len || (uint64_t)p.p_paddr + p.p_filesz > avr->flashend + 1)
			log_fatal("%s: a segment of %u bytes at 0x%x does not fit", elf, p.p_filesz, p.p_paddr);
		memcpy(avr->flash + p.p_paddr, buf + p.p_offset, p.p_filesz);
		loaded += p.p_filesz;
	}
	free(buf);
	if (loaded == 0)
		log_fatal("%s has nothing for flash", elf);
	avr->codeend = avr->flashend;
}

void flash_set_serial(avr_t *avr, uint64_t serial)
{
	uint8_t *id = avr->flash + IDENTITY_AT;

	if (memcmp(id, IDENTITY_MAGIC, 8) != 0)
		log_fatal("the firmware has no identity at 0x%lx, so no serial number can be set", IDENTITY_AT);
	for (int i = 0; i < 8; i++)
		id[IDENTITY_SERIAL + i] = (uint8_t)(serial >> 8 * i);
}

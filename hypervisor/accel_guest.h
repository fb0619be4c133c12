/*
 * The test machine's firmware: what the KVM probe runs, and what its unit test runs under TCG.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The image fills the last 64 KiB below 1 MiB and, again, those below 4 GiB, where a CPU starts. */
#define ACCEL_ROM_SIZE 0x10000
#define ACCEL_ROM_LOW  0xf0000
#define ACCEL_ROM_HIGH 0xffff0000u
/* It says each stage that it has reached as a byte on this port; ACCEL_DONE is the last. */
#define ACCEL_PORT   0xe9
#define ACCEL_DONE   '!'
#define ACCEL_FAILED 'x'
/* All stages in order, as a machine that works says them. */
#define ACCEL_STAGES "rplamet!"

void accel_rom_write(uint8_t rom[ACCEL_ROM_SIZE]);

/* What the machine was doing when `stage` was the last byte that it said; 0: none was. */
const char *accel_stage_text(char stage);

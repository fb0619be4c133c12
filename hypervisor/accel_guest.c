/*
 * The firmware goes the way of a stock kernel by instructions of its own: reset vector, real mode,
 * protected mode, paging and long mode through CR0, CR4 and EFER, then 64-bit and SSE arithmetic,
 * CPUID, system call MSRs, an exception, and a sleep in HLT that the APIC's timer ends. Hosts exist
 * where each of the earlier stages works and a later one hangs, so starting in long mode by
 * KVM_SET_SREGS would prove little.
 *
 * Memory: 0x1000 PML4, 0x2000 PDPT, 0x3000 and 0x4000 page directories, 0x5000 IDT, 0x6000 its
 * descriptor, stack below 0x7000. `at(x)` is the address of a label in the low copy of the image.
 */
#include "hypervisor/accel_guest.h"

#include <string.h>

/* clang-format off */
__asm__(
	".pushsection .rodata, \"a\", @progbits\n"
	".macro say letter\n"
	"	movb $\\letter, %al\n"
	"	outb %al, $0xe9\n"
	".endm\n"
	".macro gate vector, handler\n"
	"	movl $(0xf0000 + \\handler - accel_start), %eax\n"
	"	movzwl %ax, %edx\n"
	"	orl $0x80000, %edx\n"
	"	movl %edx, 0x5000 + 16 * \\vector\n"
	"	movw $0x8e00, %ax\n"
	"	movl %eax, 0x5004 + 16 * \\vector\n"
	"	movq $0, 0x5008 + 16 * \\vector\n"
	".endm\n"

	"	.code16\n"
	"accel_start:\n"
	"	cli\n"
	"	cld\n"
	"	xorl %eax, %eax\n"
	"	movw %ax, %ds\n"
	"	movw %ax, %es\n"
	"	movw %ax, %ss\n"
	"	movw $0x7000, %sp\n"
	"	say 'r'\n"
	/* No legacy interrupts: both controllers masked. */
	"	movb $0xff, %al\n"
	"	outb %al, $0x21\n"
	"	outb %al, $0xa1\n"
	/* The first 2 MiB, and the 2 MiB that hold the local APIC, mapped one to one. */
	"	xorl %eax, %eax\n"
	"	movw $0x1000, %di\n"
	"	movl $0x1800, %ecx\n"
	"	rep stosl\n"
	"	movl $0x2003, 0x1000\n"
	"	movl $0x3003, 0x2000\n"
	"	movl $0x4003, 0x2018\n"
	"	movl $0x83, 0x3000\n"
	"	movl $0xfee0009b, 0x4000 + 8 * 503\n"
	"	lgdtl %cs:(accel_gdtr - accel_start)\n"
	"	movl %cr0, %eax\n"
	"	orb $1, %al\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x18, $(0xf0000 + accel_protected - accel_start)\n"

	"	.code32\n"
	"accel_protected:\n"
	"	movl $0x10, %eax\n"
	"	movl %eax, %ds\n"
	"	movl %eax, %es\n"
	"	movl %eax, %ss\n"
	"	say 'p'\n"
	"	movl %cr4, %eax\n"
	"	orl $0x620, %eax\n" /* PAE, OSFXSR, OSXMMEXCPT */
	"	movl %eax, %cr4\n"
	"	movl $0x1000, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n" /* EFER: SCE, LME */
	"	rdmsr\n"
	"	orl $0x101, %eax\n"
	"	wrmsr\n"
	"	movl %cr0, %eax\n"
	"	andl $0x9ffffffb, %eax\n" /* caches on, no FPU emulation */
	"	orl $0x80010002, %eax\n"  /* PG, WP, MP */
	"	movl %eax, %cr0\n"
	"	ljmp $0x08, $(0xf0000 + accel_long - accel_start)\n"

	"	.code64\n"
	"accel_long:\n"
	"	movl $0x7000, %esp\n"
	"	say 'l'\n"
	"	xorl %eax, %eax\n"
	"	xorl %ecx, %ecx\n"
	"	cpuid\n"
	"	rdtsc\n"
	"	movabsq $0x100000001, %rax\n"
	"	movq %rax, %rcx\n"
	"	mulq %rcx\n"
	"	cmpq $1, %rdx\n"
	"	jne accel_failed\n"
	"	movabsq $0x200000001, %rcx\n"
	"	cmpq %rcx, %rax\n"
	"	jne accel_failed\n"
	"	movq %rax, %xmm0\n"
	"	paddq %xmm0, %xmm0\n"
	"	movq %xmm0, %rdx\n"
	"	addq %rcx, %rax\n"
	"	cmpq %rax, %rdx\n"
	"	jne accel_failed\n"
	"	say 'a'\n"
	/* LSTAR, and GS base, as a kernel sets them. */
	"	movl $0xc0000082, %ecx\n"
	"	movl $0x12345678, %eax\n"
	"	xorl %edx, %edx\n"
	"	wrmsr\n"
	"	movl $0xc0000101, %ecx\n"
	"	xorl %eax, %eax\n"
	"	wrmsr\n"
	"	movl $0xc0000082, %ecx\n"
	"	rdmsr\n"
	"	cmpl $0x12345678, %eax\n"
	"	jne accel_failed\n"
	"	say 'm'\n"
	"	gate 6, accel_invalid\n"
	"	gate 32, accel_timer\n"
	"	movw $0x20f, 0x6000\n"
	"	movq $0x5000, 0x6002\n"
	"	lidt 0x6000\n"
	"	xorl %ebx, %ebx\n"
	"	ud2\n"
	"	cmpl $1, %ebx\n"
	"	jne accel_failed\n"
	"	say 'e'\n"
	/* The APIC on, its timer once, divided by one. */
	"	movl $0xfee00000, %esi\n"
	"	movl $0x1ff, 0xf0(%rsi)\n"
	"	movl $0xb, 0x3e0(%rsi)\n"
	"	movl $0x20, 0x320(%rsi)\n"
	"	movl $100000, 0x380(%rsi)\n"
	"1:	cli\n"
	"	cmpl $2, %ebx\n"
	"	je 2f\n"
	"	sti\n"
	"	hlt\n"
	"	jmp 1b\n"
	"2:	say 't'\n"
	"	say '!'\n"
	"	jmp 3f\n"
	"accel_failed:\n"
	"	say 'x'\n"
	/* Under QEMU's isa-debug-exit this ends the test. */
	"3:	movw $0x501, %dx\n"
	"	outb %al, %dx\n"
	"4:	hlt\n"
	"	jmp 4b\n"
	"accel_invalid:\n"
	"	movl $1, %ebx\n"
	"	addq $2, (%rsp)\n"
	"	iretq\n"
	"accel_timer:\n"
	"	movl $2, %ebx\n"
	"	movl $0, 0xb0(%rsi)\n"
	"	iretq\n"

	"	.balign 8\n"
	"accel_gdt:\n"
	"	.quad 0\n"
	"	.quad 0x00af9a000000ffff\n" /* 0x08: 64-bit code */
	"	.quad 0x00cf92000000ffff\n" /* 0x10: data */
	"	.quad 0x00cf9a000000ffff\n" /* 0x18: 32-bit code */
	"accel_gdtr:\n"
	"	.word accel_gdtr - accel_gdt - 1\n"
	"	.long 0xf0000 + accel_gdt - accel_start\n"
	"accel_end:\n"
	".popsection\n"
);
/* clang-format on */

extern const uint8_t accel_start[] __attribute__((visibility("hidden")));
extern const uint8_t accel_end[] __attribute__((visibility("hidden")));

void accel_rom_write(uint8_t rom[ACCEL_ROM_SIZE])
{
	/* ljmp $0xf000, $0 at the reset vector */
	static const uint8_t reset[] = {0xea, 0x00, 0x00, 0x00, 0xf0};

	memset(rom, 0xf4, ACCEL_ROM_SIZE);
	/* One array of the section above under two names. */
	/* cppcheck-suppress comparePointers */
	memcpy(rom, accel_start, (size_t)(accel_end - accel_start));
	memcpy(rom + 0xfff0, reset, sizeof(reset));
}

const char *accel_stage_text(char stage)
{
	switch (stage) {
	case 0:
		return "executing its first instruction at the reset vector";
	case 'r':
		return "going from real to protected mode";
	case 'p':
		return "going from protected to long mode";
	case 'l':
		return "64-bit and SSE arithmetic";
	case 'a':
		return "setting system call MSRs";
	case 'm':
		return "taking an exception";
	case 'e':
		return "sleeping until a timer interrupt";
	default:
		return "finishing";
	}
}

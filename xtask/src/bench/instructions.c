/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A QEMU TCG plugin that counts guest instructions up to two moments: the first one in user mode (PID 1's), and the first
 * one in user mode outside PID 1's own addresses (the container's process). It writes its file at the second one: QEMU is
 * killed as soon as the container has ended. See QEMU's docs/devel/tcg-plugins.rst. Only calls that every version of the
 * interface has are used, and they are declared here, since no Debian package carries the header.
 *
 * Arguments: init=FIRST-LAST (PID 1's addresses, hexadecimal), out=FILE.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif

#define VISIBLE __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct block;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, void (*)(unsigned int, void *), int flags, void *);
size_t qemu_plugin_tb_n_insns(const struct block *);
uint64_t qemu_plugin_tb_vaddr(const struct block *);

VISIBLE int qemu_plugin_version = PLUGIN_VERSION;

enum where { KERNEL, INIT, CONTAINER };

static uint64_t total, first[3], init_first, init_last;
static char out[4096];

static enum where where(uint64_t address)
{
	/* Kernel addresses have their top bit set; so early in a boot that it runs at low ones, no user mode has been. */
	if (address >> 63)
		return KERNEL;
	if (address >= init_first && address <= init_last)
		return INIT;
	return first[INIT] ? CONTAINER : KERNEL;
}

static void report(void)
{
	FILE *file = fopen(out, "w");

	if (!file)
		return;
	fprintf(file, "%" PRIu64 " %" PRIu64 "\n", first[INIT], first[CONTAINER]);
	fclose(file);
}

/* The block's place and length travel in the pointer: blocks are far shorter than 2^32 instructions. */
static void executed(unsigned int cpu, void *data)
{
	uint64_t word = (uintptr_t)data;
	enum where place = word >> 32;

	(void)cpu;
	if (!first[place]) {
		first[place] = total + 1;
		if (place == CONTAINER)
			report();
	}
	total += (uint32_t)word;
}

static void translated(plugin_id id, struct block *block)
{
	uint64_t word = (uint64_t)where(qemu_plugin_tb_vaddr(block)) << 32 | qemu_plugin_tb_n_insns(block);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)word);
}

VISIBLE int qemu_plugin_install(plugin_id id, const void *info, int count, char **words)
{
	(void)info;
	for (int i = 0; i < count; i++) {
		if (sscanf(words[i], "init=%" SCNx64 "-%" SCNx64, &init_first, &init_last) == 2)
			continue;
		if (!strncmp(words[i], "out=", 4) && strlen(words[i] + 4) < sizeof(out))
			strcpy(out, words[i] + 4);
		else
			return -1;
	}
	if (!init_last || !out[0])
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A QEMU TCG plugin that counts guest instructions: up to the first one in user mode (PID 1's), up to the first one in user
 * mode outside PID 1's own addresses (the container's process), and all so far. The three numbers are always in its file,
 * which is mapped: QEMU is killed as soon as the container has ended. See QEMU's docs/devel/tcg-plugins.rst. Only calls
 * that every version of the interface has are used, and they are declared here, since no Debian package carries the header.
 *
 * Arguments: init=FIRST-LAST (PID 1's addresses, hexadecimal), out=FILE.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* What is in the file. */
static struct {
	uint64_t to_init, to_container, all;
} *counts;

static uint64_t init_first, init_last;

static enum where where(uint64_t address)
{
	/* Kernel addresses have their top bit set; so early in a boot that it runs at low ones, no user mode has been. */
	if (address >> 63)
		return KERNEL;
	if (address >= init_first && address <= init_last)
		return INIT;
	return counts->to_init ? CONTAINER : KERNEL;
}

/* The block's place and length travel in the pointer: blocks are far shorter than 2^32 instructions. */
static void executed(unsigned int cpu, void *data)
{
	uint64_t word = (uintptr_t)data;
	enum where place = word >> 32;

	(void)cpu;
	if (place == INIT && !counts->to_init)
		counts->to_init = counts->all + 1;
	if (place == CONTAINER && !counts->to_container)
		counts->to_container = counts->all + 1;
	counts->all += (uint32_t)word;
}

static void translated(plugin_id id, struct block *block)
{
	uint64_t word = (uint64_t)where(qemu_plugin_tb_vaddr(block)) << 32 | qemu_plugin_tb_n_insns(block);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)word);
}

static void *map(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(*counts)))
		return MAP_FAILED;
	return mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

VISIBLE int qemu_plugin_install(plugin_id id, const void *info, int count, char **words)
{
	char out[4096] = "";

	(void)info;
	for (int i = 0; i < count; i++) {
		if (sscanf(words[i], "init=%" SCNx64 "-%" SCNx64, &init_first, &init_last) == 2)
			continue;
		if (sscanf(words[i], "out=%4095[^\n]", out) != 1)
			return -1;
	}
	counts = map(out);
	if (!init_last || counts == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}

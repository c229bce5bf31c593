// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * layoutclient FILE DEVICE ROUNDS: gets the block of a page of FILE, writes to it on DEVICE as a pNFS client does,
 * commits it and looks at the page, while a thread loads from a mapping of it. Loads layoutcall.ko first, which is
 * linked in.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAYOUT_GET 0x4c01
#define LAYOUT_COMMIT 0x4c02
#define PAGE 4096

struct layout_range {
	int fd;
	uint32_t pad;
	uint64_t offset;
	uint64_t length;
	uint64_t address;
};

extern char module_start[], module_end[];

static volatile char *mapping;
static atomic_int stop;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int check(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static void *loads(void *unused)
{
	unsigned long sum = 0;

	while (!stop)
		sum += mapping[0];
	return (void *)sum;
}

int main(int count, char **arguments)
{
	int calls, file, device, rounds, by_mapping = 0, by_read = 0;
	pthread_t loader;
	char *data;

	if (count != 4) {
		fprintf(stderr, "usage: layoutclient FILE DEVICE ROUNDS\n");
		return 2;
	}
	rounds = atoi(arguments[3]);
	if (syscall(SYS_init_module, module_start, module_end - module_start, "") && errno != EEXIST)
		die("layoutcall.ko");
	calls = check(open("/dev/layoutcall", O_RDWR), "/dev/layoutcall");
	device = check(open(arguments[2], O_RDWR | O_DIRECT | O_SYNC), arguments[2]);
	file = check(open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600), arguments[1]);
	check(ftruncate(file, 16 * PAGE), "ftruncate");
	mapping = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
	if (mapping == MAP_FAILED || posix_memalign((void **)&data, PAGE, PAGE))
		die("memory");
	if (pthread_create(&loader, NULL, loads, NULL))
		die("thread");
	for (int round = 0; round < rounds; round++) {
		struct layout_range range = { .fd = file, .length = PAGE };
		char read_back;

		check(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), "fallocate");
		check(ioctl(calls, LAYOUT_GET, &range), "LAYOUTGET");
		memset(data, 'a' + round % 26, PAGE);
		check(pwrite(device, data, PAGE, range.address), "device");
		check(ioctl(calls, LAYOUT_COMMIT, &range), "LAYOUTCOMMIT");
		by_mapping += mapping[0] != data[0];
		check(pread(file, &read_back, 1, 0), "pread");
		by_read += read_back != data[0];
	}
	stop = 1;
	pthread_join(loader, NULL);
	printf("%d rounds: %d stale in the mapping, %d by read(2)\n", rounds, by_mapping, by_read);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* What the host does to a file that a virtiofs client has: ioctl(2) of /dev/virtiofs-host. */
#ifndef VIRTIOFS_HOST_H
#define VIRTIOFS_HOST_H

#include <linux/types.h>

#define VIRTIOFS_TAG "lab"
/* Gives a file another size; what is cut off is zeroes when it grows again. */
#define VIRTIOFS_HOST_RESIZE 0x7601

struct virtiofs_host_size {
	/* The file's number, as stat(2) tells it. */
	__u64 inode;
	__u64 size;
};

#endif

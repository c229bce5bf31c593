/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* What the host does to a file that a virtiofs client has: ioctl(2) of /dev/virtiofs-host. */
#ifndef VIRTIOFS_HOST_H
#define VIRTIOFS_HOST_H

#include <linux/types.h>

#define VIRTIOFS_TAG "lab"
/* The new size is `offset`. */
#define VIRTIOFS_HOST_RESIZE 0x7601
/* `length` bytes from `offset` on become `filler`. */
#define VIRTIOFS_HOST_FILL 0x7602

struct virtiofs_host_change {
	/* Its number, as stat(2) tells it. */
	__u64 inode;
	__u64 offset;
	__u64 length;
	__u8 filler;
	__u8 pad[7];
};

#endif

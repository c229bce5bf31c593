// SPDX-License-Identifier: GPL-2.0
/*
 * Calls what nfsd calls for LAYOUTGET and LAYOUTCOMMIT (fs/nfsd/blocklayout.c), for a file of this machine: an ioctl
 * of /dev/layoutcall for each.
 */
#include <linux/exportfs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#include <linux/exportfs_block.h>
#define block_ops(sb) ((sb)->s_export_op->block_ops)
#else
#define block_ops(sb) ((sb)->s_export_op)
#endif

#define LAYOUT_GET 0x4c01
#define LAYOUT_COMMIT 0x4c02

struct layout_range {
	int fd;
	u32 pad;
	u64 offset;
	u64 length;
	/* Where the first byte lies on the device. */
	u64 address;
};

static int layout_get(struct inode *inode, struct layout_range *range)
{
	struct iomap map = {};
	u32 generation;
	int error;

	error = block_ops(inode->i_sb)->map_blocks(inode, range->offset, range->length, &map, true, &generation);
	range->address = map.addr + range->offset - map.offset;
	return error;
}

static int layout_commit(struct inode *inode, struct layout_range *range)
{
	struct iomap map = { .offset = range->offset, .length = range->length, .type = IOMAP_UNWRITTEN };

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	return block_ops(inode->i_sb)->commit_blocks(inode, &map, 1, 0);
#else
	struct iattr times = { .ia_valid = ATTR_ATIME | ATTR_CTIME | ATTR_MTIME };

	ktime_get_coarse_real_ts64(&times.ia_mtime);
	times.ia_atime = times.ia_ctime = times.ia_mtime;
	return block_ops(inode->i_sb)->commit_blocks(inode, &map, 1, &times);
#endif
}

static long layout_ioctl(struct file *unused, unsigned int request, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	struct layout_range range;
	struct file *file;
	struct inode *inode;
	int error = -EOPNOTSUPP;

	if (copy_from_user(&range, user, sizeof(range)))
		return -EFAULT;
	file = fget(range.fd);
	if (!file)
		return -EBADF;
	inode = file_inode(file);
	if (!inode->i_sb->s_export_op || !block_ops(inode->i_sb) || !block_ops(inode->i_sb)->map_blocks)
		goto out;
	if (request == LAYOUT_GET)
		error = layout_get(inode, &range);
	else if (request == LAYOUT_COMMIT)
		error = layout_commit(inode, &range);
	if (!error && copy_to_user(user, &range, sizeof(range)))
		error = -EFAULT;
out:
	fput(file);
	return error;
}

static const struct file_operations layout_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = layout_ioctl,
};

static struct miscdevice layout_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "layoutcall",
	.fops = &layout_operations,
};

module_misc_device(layout_device);
MODULE_DESCRIPTION("pNFS block layouts without NFS");
MODULE_LICENSE("GPL");

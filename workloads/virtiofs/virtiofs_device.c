// SPDX-License-Identifier: GPL-2.0
/*
 * A virtiofs device inside the kernel: the driver of fs/fuse/virtio_fs.c talks to it as it would to a hypervisor, DAX
 * window included, and it answers as virtiofsd does (include/uapi/linux/fuse.h). Files lie in memory, and are gone when
 * the filesystem is unmounted. /dev/virtiofs-host is the host's side of them: what is done there, no client of this
 * machine did.
 */
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "virtiofs_host.h"

#define CHUNK_SHIFT 21
#define CHUNK_SIZE (1UL << CHUNK_SHIFT)
#define CHUNKS 16
#define FILES 64
#define QUEUES 2
#define RING_SIZE 128
#define MAX_WRITE (64 * PAGE_SIZE)
#define BUFFER_SIZE (MAX_WRITE + 2 * PAGE_SIZE)
#define NAME_SIZE 64
/* What stands in a piece of the window that belongs to no file. */
#define NOBODYS 0xee

static ulong window_start;
module_param(window_start, ulong, 0444);
MODULE_PARM_DESC(window_start, "Physical address of the DAX window, in memory that is nobody's");
static ulong window_size;
module_param(window_size, ulong, 0444);
MODULE_PARM_DESC(window_size, "Its size in bytes; a multiple of 2 MiB");
static bool cache_always;
module_param(cache_always, bool, 0444);
MODULE_PARM_DESC(cache_always, "Whether clients may believe that they are alone, as with virtiofsd's --cache always");

#define CACHE_SECONDS 3600

/* 2 MiB of a file: in the window, in memory of its own, or a hole. */
struct chunk {
	u8 *memory;
	u8 *mapped;
};

/* A file or a directory; one without a name and look-ups is free. */
struct node {
	char name[NAME_SIZE];
	u64 parent;
	u64 generation;
	u64 lookups;
	u64 size;
	u32 mode;
	struct timespec64 changed;
	struct chunk chunks[CHUNKS];
};

struct queue {
	struct virtqueue *vq;
	struct work_struct work;
	u16 seen;
};

struct request {
	const struct fuse_in_header *header;
	const u8 *in;
	u32 in_size;
	u8 *out;
	u32 out_size;
};

struct device_state {
	struct virtio_device vdev;
	struct device *parent;
	struct workqueue_struct *worker;
	struct mutex lock;
	struct queue queues[QUEUES];
	struct node nodes[FILES];
	/* Whose piece of the window it is. */
	struct chunk *owners[SZ_1G >> CHUNK_SHIFT];
	u64 generation;
	u8 *window;
	u8 *in, *out;
	u8 status;
};

static struct device_state *device;

static struct node *node_of(u64 id)
{
	if (id <= FUSE_ROOT_ID || id - FUSE_ROOT_ID > FILES)
		return NULL;
	return &device->nodes[id - FUSE_ROOT_ID - 1];
}

static u64 id_of(const struct node *node)
{
	return node - device->nodes + FUSE_ROOT_ID + 1;
}

static struct node *node_named(u64 parent, const char *name)
{
	for (int at = 0; at < FILES; at++) {
		struct node *node = &device->nodes[at];

		if (*name && node->parent == parent && !strcmp(node->name, name))
			return node;
	}
	return NULL;
}

static bool is_empty(u64 parent)
{
	for (int at = 0; at < FILES; at++)
		if (*device->nodes[at].name && device->nodes[at].parent == parent)
			return false;
	return true;
}

static u8 *bytes_of(const struct chunk *chunk)
{
	return chunk->mapped ?: chunk->memory;
}

static u8 *bytes_to_write(struct chunk *chunk)
{
	if (!bytes_of(chunk))
		chunk->memory = vzalloc(CHUNK_SIZE);
	return bytes_of(chunk);
}

/* What is left of a span within a chunk. */
static u64 within(u64 offset, u64 end)
{
	return min(end, (offset | (CHUNK_SIZE - 1)) + 1) - offset;
}

static void zero(struct node *node, u64 offset, u64 end)
{
	end = min(end, (u64)CHUNKS << CHUNK_SHIFT);
	while (offset < end) {
		u8 *bytes = bytes_of(&node->chunks[offset >> CHUNK_SHIFT]);
		u64 length = within(offset, end);

		if (bytes)
			memset(bytes + offset % CHUNK_SIZE, 0, length);
		offset += length;
	}
}

static void touch(struct node *node)
{
	ktime_get_real_ts64(&node->changed);
}

static int resize(struct node *node, u64 size)
{
	if (size > (u64)CHUNKS << CHUNK_SHIFT)
		return -EFBIG;
	if (size < node->size)
		zero(node, size, node->size);
	node->size = size;
	touch(node);
	return 0;
}

/* Takes a piece of the window from its file; what was written to it is kept. */
static void unmap(unsigned long slot)
{
	u8 *mapped = device->window + (slot << CHUNK_SHIFT);
	struct chunk *chunk = device->owners[slot];

	if (!chunk)
		return;
	chunk->mapped = NULL;
	if (bytes_to_write(chunk))
		memcpy(chunk->memory, mapped, CHUNK_SIZE);
	memset(mapped, NOBODYS, CHUNK_SIZE);
	device->owners[slot] = NULL;
}

static void forget(struct node *node)
{
	if (node->lookups || *node->name)
		return;
	for (int at = 0; at < CHUNKS; at++) {
		struct chunk *chunk = &node->chunks[at];

		if (chunk->mapped)
			unmap((chunk->mapped - device->window) >> CHUNK_SHIFT);
		vfree(chunk->memory);
		chunk->memory = NULL;
	}
	node->size = 0;
}

static struct node *create(u64 parent, const char *name, u32 mode)
{
	for (int at = 0; at < FILES; at++) {
		struct node *node = &device->nodes[at];

		if (*node->name || node->lookups)
			continue;
		strscpy(node->name, name, NAME_SIZE);
		node->parent = parent;
		node->generation = ++device->generation;
		node->mode = mode;
		touch(node);
		return node;
	}
	return NULL;
}

static u64 valid_seconds(void)
{
	return cache_always ? CACHE_SECONDS : 0;
}

static void fill_attr(struct fuse_attr *attr, u64 id)
{
	struct node *node = node_of(id);

	memset(attr, 0, sizeof(*attr));
	attr->ino = id;
	attr->blksize = PAGE_SIZE;
	if (!node) {
		attr->mode = S_IFDIR | 0755;
		attr->nlink = 2;
		return;
	}
	attr->mode = node->mode;
	attr->nlink = S_ISDIR(node->mode) ? 2 : !!*node->name;
	attr->size = node->size;
	attr->blocks = node->size >> 9;
	attr->mtime = attr->ctime = attr->atime = node->changed.tv_sec;
	attr->mtimensec = attr->ctimensec = attr->atimensec = node->changed.tv_nsec;
}

static int fill_entry(u8 *out, struct node *node)
{
	struct fuse_entry_out *entry = (void *)out;

	memset(entry, 0, sizeof(*entry));
	entry->nodeid = id_of(node);
	entry->generation = node->generation;
	entry->attr_valid = entry->entry_valid = valid_seconds();
	fill_attr(&entry->attr, id_of(node));
	node->lookups++;
	return sizeof(*entry);
}

static int fill_open(u8 *out)
{
	struct fuse_open_out *open = (void *)out;

	memset(open, 0, sizeof(*open));
	open->open_flags = cache_always ? FOPEN_KEEP_CACHE : 0;
	return sizeof(*open);
}

/* Each answers with the number of bytes that it put there, or an error. */

static int serve_init(struct request *request)
{
	const struct fuse_init_in *in = (const void *)request->in;
	struct fuse_init_out *out = (void *)request->out;

	memset(out, 0, sizeof(*out));
	out->major = FUSE_KERNEL_VERSION;
	out->minor = FUSE_KERNEL_MINOR_VERSION;
	out->max_readahead = in->max_readahead;
	out->flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ATOMIC_O_TRUNC |
				  FUSE_MAP_ALIGNMENT | (cache_always ? 0 : FUSE_AUTO_INVAL_DATA));
	out->max_background = 16;
	out->congestion_threshold = 12;
	out->max_write = MAX_WRITE;
	out->max_pages = MAX_WRITE / PAGE_SIZE;
	out->time_gran = 1;
	out->map_alignment = PAGE_SHIFT;
	return sizeof(*out);
}

static int serve_lookup(struct request *request)
{
	struct node *node = node_named(request->header->nodeid, (const char *)request->in);

	return node ? fill_entry(request->out, node) : -ENOENT;
}

static int serve_getattr(struct request *request)
{
	struct fuse_attr_out *out = (void *)request->out;

	memset(out, 0, sizeof(*out));
	out->attr_valid = valid_seconds();
	fill_attr(&out->attr, request->header->nodeid);
	return sizeof(*out);
}

static int serve_setattr(struct request *request)
{
	const struct fuse_setattr_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);
	int error = 0;

	if (node && in->valid & FATTR_MODE)
		node->mode = (node->mode & S_IFMT) | (in->mode & 07777);
	if (node && in->valid & FATTR_SIZE)
		error = resize(node, in->size);
	return error ?: serve_getattr(request);
}

static int serve_create(struct request *request)
{
	const struct fuse_create_in *in = (const void *)request->in;
	const char *name = (const char *)(in + 1);
	u64 parent = request->header->nodeid;
	struct node *node = node_named(parent, name);
	int size;

	if (strlen(name) >= NAME_SIZE)
		return -ENAMETOOLONG;
	if (!node)
		node = create(parent, name, S_IFREG | (in->mode & 07777));
	if (!node)
		return -ENOSPC;
	size = fill_entry(request->out, node);
	return size + fill_open(request->out + size);
}

static int serve_mkdir(struct request *request)
{
	const struct fuse_mkdir_in *in = (const void *)request->in;
	const char *name = (const char *)(in + 1);
	struct node *node;

	if (strlen(name) >= NAME_SIZE)
		return -ENAMETOOLONG;
	node = create(request->header->nodeid, name, S_IFDIR | (in->mode & 07777));
	return node ? fill_entry(request->out, node) : -ENOSPC;
}

static int serve_open(struct request *request)
{
	const struct fuse_open_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);

	if (node && in->flags & O_TRUNC)
		resize(node, 0);
	return fill_open(request->out);
}

static int serve_unlink(struct request *request)
{
	struct node *node = node_named(request->header->nodeid, (const char *)request->in);

	if (!node)
		return -ENOENT;
	if (!is_empty(id_of(node)))
		return -ENOTEMPTY;
	*node->name = '\0';
	forget(node);
	return 0;
}

static int serve_rename(struct request *request)
{
	/* Both begin with it. */
	const struct fuse_rename_in *in = (const void *)request->in;
	const char *from = (const char *)request->in + (request->header->opcode == FUSE_RENAME ?
			   sizeof(struct fuse_rename_in) : sizeof(struct fuse_rename2_in));
	const char *to = from + strlen(from) + 1;
	struct node *node = node_named(request->header->nodeid, from), *other = node_named(in->newdir, to);

	if (!node)
		return -ENOENT;
	if (strlen(to) >= NAME_SIZE)
		return -ENAMETOOLONG;
	if (other && other != node) {
		*other->name = '\0';
		forget(other);
	}
	strscpy(node->name, to, NAME_SIZE);
	node->parent = in->newdir;
	return 0;
}

static int serve_read(struct request *request)
{
	const struct fuse_read_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);
	u64 offset = in->offset, end;
	u8 *to = request->out;

	if (!node)
		return -EISDIR;
	end = min(node->size, offset + min(in->size, request->out_size));
	while (offset < end) {
		u8 *bytes = bytes_of(&node->chunks[offset >> CHUNK_SHIFT]);
		u64 length = within(offset, end);

		if (bytes)
			memcpy(to, bytes + offset % CHUNK_SIZE, length);
		else
			memset(to, 0, length);
		to += length;
		offset += length;
	}
	return to - request->out;
}

static int put(struct node *node, u64 offset, u64 length, const u8 *from)
{
	u64 end = offset + length;

	if (end > (u64)CHUNKS << CHUNK_SHIFT)
		return -EFBIG;
	while (offset < end) {
		u8 *bytes = bytes_to_write(&node->chunks[offset >> CHUNK_SHIFT]);
		u64 now = within(offset, end);

		if (!bytes)
			return -ENOSPC;
		memcpy(bytes + offset % CHUNK_SIZE, from, now);
		from += now;
		offset += now;
	}
	node->size = max(node->size, end);
	touch(node);
	return 0;
}

static int serve_write(struct request *request)
{
	const struct fuse_write_in *in = (const void *)request->in;
	struct fuse_write_out *out = (void *)request->out;
	struct node *node = node_of(request->header->nodeid);
	int error;

	if (!node || in->size > request->in_size - sizeof(*in))
		return -EINVAL;
	error = put(node, in->offset, in->size, (const u8 *)(in + 1));
	if (error)
		return error;
	memset(out, 0, sizeof(*out));
	out->size = in->size;
	return sizeof(*out);
}

static int serve_fallocate(struct request *request)
{
	const struct fuse_fallocate_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);
	u64 end = in->offset + in->length;

	if (!node || in->mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (in->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		zero(node, in->offset, end);
	touch(node);
	if (!(in->mode & FALLOC_FL_KEEP_SIZE) && end > node->size)
		return resize(node, end);
	return 0;
}

static int serve_setupmapping(struct request *request)
{
	const struct fuse_setupmapping_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);
	unsigned long slot = in->moffset >> CHUNK_SHIFT, at = in->foffset >> CHUNK_SHIFT;
	struct chunk *chunk;
	u8 *mapped;

	if (!node || at >= CHUNKS || in->moffset + in->len > window_size || in->len != CHUNK_SIZE)
		return -EINVAL;
	chunk = &node->chunks[at];
	mapped = device->window + in->moffset;
	if (chunk->mapped == mapped)
		return 0;
	if (chunk->mapped || device->owners[slot])
		return -EBUSY;
	if (chunk->memory)
		memcpy(mapped, chunk->memory, CHUNK_SIZE);
	else
		memset(mapped, 0, CHUNK_SIZE);
	chunk->mapped = mapped;
	device->owners[slot] = chunk;
	return 0;
}

static int serve_removemapping(struct request *request)
{
	const struct fuse_removemapping_in *in = (const void *)request->in;
	const struct fuse_removemapping_one *one = (const void *)(in + 1);

	for (u32 at = 0; at < in->count; at++)
		if (one[at].moffset < window_size)
			unmap(one[at].moffset >> CHUNK_SHIFT);
	return 0;
}

static int serve_readdir(struct request *request)
{
	const struct fuse_read_in *in = (const void *)request->in;
	u32 size = min(in->size, request->out_size), used = 0;

	for (u64 at = in->offset; at < FILES; at++) {
		const struct node *node = &device->nodes[at];
		struct fuse_dirent *entry = (void *)(request->out + used);
		u32 length = strlen(node->name), whole = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);

		if (!length || node->parent != request->header->nodeid)
			continue;
		if (used + whole > size)
			break;
		memset(entry, 0, whole);
		entry->ino = id_of(node);
		entry->off = at + 1;
		entry->namelen = length;
		entry->type = node->mode >> 12;
		memcpy(entry->name, node->name, length);
		used += whole;
	}
	return used;
}

static int serve_statfs(struct request *request)
{
	struct fuse_statfs_out *out = (void *)request->out;

	memset(out, 0, sizeof(*out));
	out->st.bsize = out->st.frsize = PAGE_SIZE;
	out->st.blocks = out->st.bfree = out->st.bavail = (u64)FILES * CHUNKS * (CHUNK_SIZE / PAGE_SIZE);
	out->st.files = out->st.ffree = FILES;
	out->st.namelen = NAME_SIZE - 1;
	return sizeof(*out);
}

static int serve_nothing(struct request *request)
{
	return 0;
}

static void forget_all(void)
{
	for (int at = 0; at < FILES; at++) {
		*device->nodes[at].name = '\0';
		device->nodes[at].lookups = 0;
		forget(&device->nodes[at]);
	}
}

static int serve_destroy(struct request *request)
{
	forget_all();
	return 0;
}

static int serve_forget(struct request *request)
{
	const struct fuse_forget_in *in = (const void *)request->in;
	struct node *node = node_of(request->header->nodeid);

	if (node) {
		node->lookups -= min(node->lookups, in->nlookup);
		forget(node);
	}
	return 0;
}

static int (*const servers[])(struct request *request) = {
	[FUSE_INIT] = serve_init,
	[FUSE_LOOKUP] = serve_lookup,
	[FUSE_FORGET] = serve_forget,
	[FUSE_GETATTR] = serve_getattr,
	[FUSE_SETATTR] = serve_setattr,
	[FUSE_CREATE] = serve_create,
	[FUSE_OPEN] = serve_open,
	[FUSE_RELEASE] = serve_nothing,
	[FUSE_OPENDIR] = serve_open,
	[FUSE_READDIR] = serve_readdir,
	[FUSE_RELEASEDIR] = serve_nothing,
	[FUSE_MKDIR] = serve_mkdir,
	[FUSE_UNLINK] = serve_unlink,
	[FUSE_RMDIR] = serve_unlink,
	[FUSE_RENAME] = serve_rename,
	[FUSE_RENAME2] = serve_rename,
	[FUSE_READ] = serve_read,
	[FUSE_WRITE] = serve_write,
	[FUSE_FALLOCATE] = serve_fallocate,
	[FUSE_FSYNC] = serve_nothing,
	[FUSE_FSYNCDIR] = serve_nothing,
	[FUSE_SYNCFS] = serve_nothing,
	[FUSE_FLUSH] = serve_nothing,
	[FUSE_STATFS] = serve_statfs,
	[FUSE_DESTROY] = serve_destroy,
	[FUSE_SETUPMAPPING] = serve_setupmapping,
	[FUSE_REMOVEMAPPING] = serve_removemapping,
};

/* Returns how much of the answer there is, header included. */
static u32 serve(u32 in_size, u32 out_size)
{
	struct fuse_in_header *header = (void *)device->in;
	struct fuse_out_header *answer = (void *)device->out;
	struct request request = {
		.header = header,
		.in = device->in + sizeof(*header),
		.in_size = in_size - sizeof(*header),
		.out = device->out + sizeof(*answer),
		.out_size = out_size - min(out_size, (u32)sizeof(*answer)),
	};
	int result = -ENOSYS;

	device->in[in_size] = '\0';
	mutex_lock(&device->lock);
	if (header->opcode < ARRAY_SIZE(servers) && servers[header->opcode])
		result = servers[header->opcode](&request);
	mutex_unlock(&device->lock);
	if (!out_size)
		return 0;
	answer->len = sizeof(*answer) + max(result, 0);
	answer->error = min(result, 0);
	answer->unique = header->unique;
	return answer->len;
}

/* Copies between the driver's buffers of one direction and ours; returns how many bytes. */
static u32 copy(const struct vring *ring, u16 head, u8 *bytes, u32 limit, bool out)
{
	const struct vring_desc *desc;
	u32 done = 0;

	for (u16 at = head;; at = desc->next) {
		desc = &ring->desc[at];
		if (!!(desc->flags & VRING_DESC_F_WRITE) == out) {
			u32 length = min(desc->len, limit - done);
			u8 *theirs = phys_to_virt(desc->addr);

			if (bytes && out)
				memcpy(theirs, bytes + done, length);
			else if (bytes)
				memcpy(bytes + done, theirs, length);
			done += length;
		}
		if (!(desc->flags & VRING_DESC_F_NEXT))
			return done;
	}
}

static void serve_queue(struct work_struct *work)
{
	struct queue *queue = container_of(work, struct queue, work);
	const struct vring *ring;

	if (!queue->vq)
		return;
	ring = virtqueue_get_vring(queue->vq);
	while (queue->seen != smp_load_acquire(&ring->avail->idx)) {
		u16 head = ring->avail->ring[queue->seen % ring->num];
		u32 in_size = copy(ring, head, device->in, BUFFER_SIZE - 1, false);
		u32 out_size = copy(ring, head, NULL, BUFFER_SIZE, true);
		u32 answered = serve(in_size, out_size);
		struct vring_used_elem *used = &ring->used->ring[ring->used->idx % ring->num];

		copy(ring, head, device->out, answered, true);
		used->id = head;
		used->len = answered;
		smp_store_release(&ring->used->idx, ring->used->idx + 1);
		queue->seen++;
		vring_interrupt(0, queue->vq);
	}
}

static bool notify(struct virtqueue *vq)
{
	queue_work(device->worker, &device->queues[vq->index].work);
	return true;
}

static void config_get(struct virtio_device *vdev, unsigned int offset, void *to, unsigned int length)
{
	struct virtio_fs_config config = { .tag = VIRTIOFS_TAG, .num_request_queues = cpu_to_le32(1) };

	memcpy(to, (u8 *)&config + offset, length);
}

static void config_set(struct virtio_device *vdev, unsigned int offset, const void *from, unsigned int length)
{
}

static u8 get_status(struct virtio_device *vdev)
{
	return device->status;
}

static void set_status(struct virtio_device *vdev, u8 status)
{
	device->status = status;
}

static void reset(struct virtio_device *vdev)
{
	device->status = 0;
	flush_workqueue(device->worker);
}

static void del_vqs(struct virtio_device *vdev)
{
	for (int at = 0; at < QUEUES; at++) {
		struct queue *queue = &device->queues[at];

		cancel_work_sync(&queue->work);
		if (queue->vq)
			vring_del_virtqueue(queue->vq);
		queue->vq = NULL;
	}
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static int find_vqs(struct virtio_device *vdev, unsigned int count, struct virtqueue *vqs[],
		    struct virtqueue_info infos[], struct irq_affinity *affinity)
{
#define callback_of(at) infos[at].callback
#define name_of(at) infos[at].name
#else
static int find_vqs(struct virtio_device *vdev, unsigned int count, struct virtqueue *vqs[], vq_callback_t *callbacks[],
		    const char *const names[], const bool *contexts, struct irq_affinity *affinity)
{
#define callback_of(at) callbacks[at]
#define name_of(at) names[at]
#endif
	for (unsigned int at = 0; at < count; at++) {
		struct queue *queue = &device->queues[at];

		queue->seen = 0;
		queue->vq = at < QUEUES ? vring_create_virtqueue(at, RING_SIZE, SMP_CACHE_BYTES, vdev, true, false, false,
								 notify, callback_of(at), name_of(at)) : NULL;
		if (!queue->vq) {
			del_vqs(vdev);
			return -ENOMEM;
		}
		vqs[at] = queue->vq;
	}
	return 0;
}

static u64 get_features(struct virtio_device *vdev)
{
	return 1ULL << VIRTIO_F_VERSION_1;
}

static int finalize_features(struct virtio_device *vdev)
{
	vring_transport_features(vdev);
	return 0;
}

static bool get_shm_region(struct virtio_device *vdev, struct virtio_shm_region *region, u8 id)
{
	if (id != VIRTIO_FS_SHMCAP_ID_CACHE)
		return false;
	region->addr = window_start;
	region->len = window_size;
	return true;
}

static const char *bus_name(struct virtio_device *vdev)
{
	return "virtiofs-device";
}

static const struct virtio_config_ops config_operations = {
	.get = config_get,
	.set = config_set,
	.get_status = get_status,
	.set_status = set_status,
	.reset = reset,
	.find_vqs = find_vqs,
	.del_vqs = del_vqs,
	.get_features = get_features,
	.finalize_features = finalize_features,
	.get_shm_region = get_shm_region,
	.bus_name = bus_name,
};

static long host_ioctl(struct file *unused, unsigned int request, unsigned long argument)
{
	struct virtiofs_host_size change;
	struct node *node;
	int error = -ENOENT;

	if (request != VIRTIOFS_HOST_RESIZE)
		return -ENOTTY;
	if (copy_from_user(&change, (void __user *)argument, sizeof(change)))
		return -EFAULT;
	mutex_lock(&device->lock);
	node = node_of(change.inode);
	if (node && *node->name)
		error = resize(node, change.size);
	mutex_unlock(&device->lock);
	return error;
}

static const struct file_operations host_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = host_ioctl,
};

static struct miscdevice host_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "virtiofs-host",
	.fops = &host_operations,
};

static void release(struct device *unused)
{
}

static void clean_up(void)
{
	forget_all();
	if (device->window)
		memunmap(device->window);
	if (device->worker)
		destroy_workqueue(device->worker);
	if (!IS_ERR_OR_NULL(device->parent))
		root_device_unregister(device->parent);
	kvfree(device->in);
	kvfree(device->out);
	kvfree(device);
}

static int __init virtiofs_device_init(void)
{
	int error = -ENOMEM;

	if (!window_size || window_size % CHUNK_SIZE || window_size > SZ_1G || window_start % PAGE_SIZE)
		return -EINVAL;
	device = kvzalloc(sizeof(*device), GFP_KERNEL);
	if (!device)
		return -ENOMEM;
	mutex_init(&device->lock);
	for (int at = 0; at < QUEUES; at++)
		INIT_WORK(&device->queues[at].work, serve_queue);
	device->in = kvmalloc(BUFFER_SIZE, GFP_KERNEL);
	device->out = kvmalloc(BUFFER_SIZE, GFP_KERNEL);
	device->worker = alloc_ordered_workqueue("virtiofs-device", 0);
	device->window = memremap(window_start, window_size, MEMREMAP_WB);
	device->parent = root_device_register("virtiofs-device");
	if (!device->in || !device->out || !device->worker || !device->window || IS_ERR(device->parent))
		goto failed;
	memset(device->window, NOBODYS, window_size);
	device->vdev.id.device = VIRTIO_ID_FS;
	device->vdev.id.vendor = VIRTIO_DEV_ANY_ID;
	device->vdev.config = &config_operations;
	device->vdev.dev.parent = device->parent;
	device->vdev.dev.release = release;
	error = register_virtio_device(&device->vdev);
	if (error)
		goto failed;
	error = misc_register(&host_device);
	if (!error)
		return 0;
	unregister_virtio_device(&device->vdev);
failed:
	clean_up();
	return error;
}

static void __exit virtiofs_device_exit(void)
{
	misc_deregister(&host_device);
	unregister_virtio_device(&device->vdev);
	clean_up();
}

module_init(virtiofs_device_init);
module_exit(virtiofs_device_exit);
MODULE_DESCRIPTION("A virtiofs device without a hypervisor");
MODULE_LICENSE("GPL");

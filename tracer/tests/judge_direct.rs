//! Writes beside the page cache: what must fire, and the look-alikes that must not.

mod judge_dsl;

use judge_dsl::*;
use tracer::{
    hooks::{Effect, Entry, Mode},
    units::Device,
};
use tracer_ebpf::event::FLAG_DIRECT;

const IOCB_DIRECT: u64 = 1 << 17;
const EIOCBQUEUED: u64 = (-529_i64) as u64;
const BLOCK: u64 = 4 * KIB;

fn recorder(device: Device) -> Recorder {
    let mut recorder = Recorder::new();
    for (address, ino, path) in [(A, 131, "a"), (B, 132, "b")] {
        recorder
            .judge()
            .inode(&file(address, ino, device, false, path));
    }
    recorder
}

/// A direct write over unwritten blocks, in a file of `before` bytes that has `after` of them where
/// the blocks are converted.
fn write(mode: Mode, (offset, length): (u64, u64), before: u64, after: u64) -> Vec<Step> {
    let end = before.max(offset + length);
    vec![
        enter(Entry::Write, A)
            .a(offset)
            .b(length)
            .c(IOCB_DIRECT)
            .size(before),
        acquire(A, IRwsem, mode),
        convert(A, offset, length).size(after),
        release(A, IRwsem, mode),
        leave(Entry::Write, A).a(length).size(end),
    ]
}

fn judged_on(device: Device, steps: Vec<Step>) -> Vec<String> {
    let mut recorder = recorder(device);
    recorder.run(1, steps);
    found(&recorder.finish())
}

#[test]
fn a_size_that_is_published_before_its_blocks() {
    let size_first = write(Excl, (SIZE, BLOCK), SIZE, SIZE + BLOCK);
    for device in [XFS, EXT4] {
        assert_eq!(
            judged_on(device, size_first.clone()),
            ["size-order predicted direct-write"]
        );
    }
    let blocks_first = write(Excl, (SIZE, BLOCK), SIZE, SIZE);
    assert_eq!(judged_on(XFS, blocks_first), [""; 0]);
    let inside = write(Shared, (0, BLOCK), SIZE, SIZE);
    assert_eq!(judged_on(XFS, inside), [""; 0]);

    // Who reads meanwhile moves no size.
    let mut recorder = recorder(XFS);
    recorder.run(1, size_first[..2].to_vec());
    recorder.step(2, enter(Entry::Read, A).a(0).b(BLOCK));
    recorder.step(2, leave(Entry::Read, A).a(BLOCK));
    recorder.run(1, size_first[2..].to_vec());
    assert_eq!(
        found(&recorder.finish()),
        ["size-order predicted direct-write"]
    );
}

#[test]
fn a_size_that_another_write_published() {
    // Aligned writes that extend an XFS file may run side by side: this one's range became a part of
    // the file by the other one's end.
    let steps = write(Shared, (SIZE, BLOCK), SIZE, SIZE + BLOCK);
    let mut recorder = recorder(XFS);
    recorder.run(
        2,
        write(Shared, (SIZE, 2 * BLOCK), SIZE, SIZE)[..3].to_vec(),
    );
    recorder.run(1, steps.clone());
    assert_eq!(found(&recorder.finish()), [""; 0]);

    let mut recorder = self::recorder(XFS);
    recorder.run(1, steps[..2].to_vec());
    recorder.run(2, write(Shared, (SIZE, 2 * BLOCK), SIZE, SIZE));
    recorder.run(1, steps[2..].to_vec());
    assert_eq!(found(&recorder.finish()), [""; 0]);

    // The other one has returned, but its data are on their way.
    let mut queued = write(Shared, (SIZE, 2 * BLOCK), SIZE, SIZE);
    let last = queued.len() - 1;
    queued[last] = queued[last].a(EIOCBQUEUED).size(SIZE);
    let mut recorder = self::recorder(XFS);
    recorder.run(2, queued);
    recorder.run(1, steps);
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

#[test]
fn a_dax_write_whose_size_comes_first() {
    let steps = |at_transfer| {
        vec![
            enter(Entry::Write, A).a(SIZE).b(BLOCK).size(SIZE),
            acquire(A, IRwsem, Excl),
            dax_write(A, SIZE, BLOCK).size(at_transfer),
            disk_size(A, SIZE, BLOCK),
            release(A, IRwsem, Excl),
            leave(Entry::Write, A).a(BLOCK).size(SIZE + BLOCK),
        ]
    };
    assert_eq!(
        judged(steps(SIZE + BLOCK)),
        ["size-order predicted dax-write"]
    );
    assert_eq!(judged(steps(SIZE)), [""; 0]);

    // The size was read, and the task interrupted, before another write came and went.
    let mut recorder = recorder(XFS);
    recorder.run(2, steps(SIZE));
    recorder.run(1, steps(SIZE + BLOCK));
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

#[test]
fn written_blocks_for_data_that_are_not_there_yet() {
    let steps = |offset, flags| {
        vec![
            enter(Entry::Write, A).a(offset).b(BLOCK).c(IOCB_DIRECT),
            acquire(A, IRwsem, Shared),
            direct_transfer(A, offset, BLOCK),
            acquire(A, Ilock, Excl),
            map_extent(A),
            release(A, Ilock, Excl),
            allocate(A, offset, BLOCK).flags(flags),
            release(A, IRwsem, Shared),
            leave(Entry::Write, A).a(BLOCK),
        ]
    };
    assert_eq!(
        judged_on(EXT4, steps(0, FLAG_DIRECT)),
        ["stale-data predicted direct-write"]
    );
    // Beyond EOF nobody reads; before direct I/O has begun, pages are written back.
    let mut beyond = steps(SIZE, FLAG_DIRECT);
    assert_eq!(
        judged_on(EXT4, beyond.clone()),
        ["size-order predicted direct-write"]
    );
    beyond.insert(2, orphan(A));
    assert_eq!(judged_on(EXT4, beyond), [""; 0]);
    // What goes through the page cache after all gets its size with its data.
    let buffered = steps(SIZE, FLAG_DIRECT);
    let buffered = without(buffered, |step| step.effect == Effect::DirectTransfer);
    assert_eq!(judged_on(EXT4, buffered), [""; 0]);
    assert_eq!(judged_on(EXT4, steps(0, 0)), [""; 0]);
}

#[test]
fn an_unaligned_write_beside_others() {
    let part = (BLOCK + 512, BLOCK);
    assert_eq!(
        judged_on(XFS, write(Shared, part, SIZE, SIZE)),
        ["wrong-mode predicted direct-write"]
    );
    let mut alone = write(Excl, part, SIZE, SIZE);
    alone.insert(2, drain(A));
    assert_eq!(judged_on(XFS, alone), [""; 0]);
    assert_eq!(
        judged_on(XFS, write(Shared, (BLOCK, BLOCK), SIZE, SIZE)),
        [""; 0]
    );
}

#[test]
fn an_unaligned_write_whose_cut_blocks_are_written_already() {
    let mut steps = write(Shared, (BLOCK + 512, 2 * BLOCK), SIZE, SIZE);
    steps[2] = convert(A, 2 * BLOCK, BLOCK).size(SIZE);
    assert_eq!(judged_on(EXT4, steps.clone()), [""; 0]);
    steps[2] = convert(A, 2 * BLOCK, 2 * BLOCK).size(SIZE);
    assert_eq!(
        judged_on(EXT4, steps),
        ["wrong-mode predicted direct-write"]
    );
}

#[test]
fn pages_written_back_by_a_write_that_fell_back_to_the_page_cache() {
    let steps = |flush: Step| {
        vec![
            enter(Entry::Write, A)
                .a(0)
                .b(BLOCK)
                .c(IOCB_DIRECT)
                .size(SIZE),
            acquire(A, IRwsem, Excl),
            release(A, IRwsem, Excl),
            flush.size(SIZE),
            leave(Entry::Write, A).a(BLOCK).size(SIZE),
        ]
    };
    let judged = |flush, other: bool| {
        let mut recorder = recorder(EXT4);
        if other {
            recorder.run(2, [enter(Entry::Read, A).c(IOCB_DIRECT)]);
        }
        recorder.run(1, steps(flush));
        found(&recorder.finish())
    };
    let mut pages = convert(A, 0, BLOCK);
    pages.flags = 0;
    assert_eq!(judged(pages, false), [""; 0]);
    // What is in flight may be the other's.
    assert_eq!(judged(convert(A, 0, BLOCK), true), [""; 0]);
    assert_eq!(
        judged(convert(A, 0, BLOCK), false),
        ["op-unprotected predicted direct-write"]
    );
}

#[test]
fn a_write_that_extends_beside_others() {
    let steps = write(Shared, (SIZE, BLOCK), SIZE, SIZE);
    assert_eq!(
        judged_on(EXT4, steps.clone()),
        ["wrong-mode predicted direct-write"]
    );
    assert_eq!(judged_on(XFS, steps), [""; 0]);
}

#[test]
fn an_operation_that_writes_pages_back_first_converts_their_blocks() {
    let mut steps = fallocate(A, PUNCH, 0, BLOCK);
    steps.insert(1, convert(A, 0, BLOCK));
    assert_eq!(judged_on(EXT4, steps), [""; 0]);
}

#[test]
fn a_direct_write_without_any_lock() {
    let steps = without(write(Shared, (0, BLOCK), SIZE, SIZE), |step| {
        is_lock(step, A, IRwsem)
    });
    assert_eq!(
        judged_on(XFS, steps),
        ["op-unprotected predicted direct-write"]
    );
}

#[test]
fn a_part_of_an_unwritten_block_while_direct_io_is_in_flight() {
    let steps = |drains: bool, offset| {
        let mut steps = write(Excl, (offset, BLOCK), SIZE, SIZE);
        if drains {
            steps.insert(2, drain(A));
        }
        steps
    };
    for device in [XFS, EXT4] {
        assert_eq!(
            judged_on(device, steps(false, 512)),
            ["dio-undrained predicted direct-write"]
        );
        assert_eq!(judged_on(device, steps(true, 512)), [""; 0]);
        // Whole blocks leave nothing around them to zero.
        assert_eq!(judged_on(device, steps(false, BLOCK)), [""; 0]);
    }
    // It waited before it had the lock.
    let mut early = steps(false, 512);
    early.insert(1, drain(A));
    assert_eq!(
        judged_on(XFS, early),
        ["dio-undrained predicted direct-write"]
    );
}

#[test]
fn a_write_beyond_eof_that_zeroes_up_to_it() {
    let beyond = SIZE + 4 * BLOCK;
    let steps = |direct, drains: bool, offset, wrote: u64| {
        let mut steps = vec![
            enter(Entry::Write, A).a(offset).b(BLOCK).c(direct),
            acquire(A, IRwsem, Shared),
            release(A, IRwsem, Shared),
            acquire(A, IRwsem, Excl),
            disk_size(A, offset, BLOCK),
            release(A, IRwsem, Excl),
            leave(Entry::Write, A).a(wrote).size(offset + BLOCK),
        ];
        if drains {
            steps.insert(4, drain(A));
        }
        steps
    };
    for (direct, name) in [(IOCB_DIRECT, "direct-write"), (0, "write")] {
        assert_eq!(
            judged_on(XFS, steps(direct, false, beyond, BLOCK)),
            [format!("dio-undrained predicted {name}")]
        );
        assert_eq!(judged_on(XFS, steps(direct, true, beyond, BLOCK)), [""; 0]);
        // At EOF nothing lies between; what failed may have failed before it zeroed.
        assert_eq!(judged_on(XFS, steps(direct, false, SIZE, BLOCK)), [""; 0]);
        assert_eq!(
            judged_on(XFS, steps(direct, false, beyond, -28i64 as u64)),
            [""; 0]
        );
        // ext4 moves EOF under i_rwsem.
        assert_eq!(
            judged_on(EXT4, steps(direct, false, beyond, BLOCK)),
            [""; 0]
        );
    }
    // Another write may have moved EOF past it before it had the lock.
    let mut recorder = recorder(XFS);
    let late = steps(0, false, beyond, BLOCK);
    recorder.run(1, late[..1].to_vec());
    recorder.run(2, steps(0, true, SIZE, 8 * BLOCK));
    recorder.run(1, late[1..].to_vec());
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

/// A write to A beside the page cache, under i_rwsem in this mode.
fn direct(mode: Mode) -> Vec<Step> {
    vec![
        enter(Entry::Write, A).a(64 * KIB).b(BLOCK).c(IOCB_DIRECT),
        acquire(A, IRwsem, mode),
        direct_transfer(A, 64 * KIB, BLOCK),
        release(A, IRwsem, mode),
        leave(Entry::Write, A).a(BLOCK),
    ]
}

fn beside_remap(before: usize, write: Vec<Step>) -> Vec<String> {
    let steps = remap_of_demoted();
    let mut recorder = recorder(XFS);
    recorder.run(1, steps[..before].to_vec());
    recorder.run(2, write);
    recorder.run(1, steps[before..].to_vec());
    found(&recorder.finish())
}

#[test]
fn a_write_to_what_is_being_shared() {
    let demoted = 12;
    assert_eq!(
        beside_remap(demoted, direct(Shared)),
        ["wrong-mode observed direct-write"]
    );
    // One that comes after the last change, or before the exclusive hold.
    let last = 16;
    assert_eq!(beside_remap(last, direct(Shared)), [""; 0]);
    assert_eq!(beside_remap(0, direct(Shared)), [""; 0]);
    assert_eq!(beside_remap(0, direct(Excl)), [""; 0]);
}

#[test]
fn a_size_on_disk_that_does_not_follow() {
    // A write of two blocks at `offset` that ends with EOF at `after`.
    let write = |inode, flags, offset, after, done: &[Step]| {
        let mut steps = vec![
            enter(Entry::Write, inode)
                .a(offset)
                .b(2 * BLOCK)
                .c(flags)
                .size(SIZE),
            acquire(inode, IRwsem, Excl),
        ];
        steps.extend_from_slice(done);
        steps.extend([
            release(inode, IRwsem, Excl),
            leave(Entry::Write, inode).a(2 * BLOCK).size(after),
        ]);
        steps
    };
    let (end, early) = (SIZE + 2 * BLOCK, "size-order predicted dax-write");
    let raised = disk_size(A, SIZE, 2 * BLOCK);
    let missing = write(A, 0, SIZE, end, &[]);
    assert_eq!(judged(missing.clone()), [early]);
    let short = write(A, 0, SIZE, end, &[disk_size(A, SIZE, BLOCK)]);
    assert_eq!(judged(short), [early]);
    // Raised for all of it, or for the part that lies beyond EOF; none is due inside EOF.
    for (offset, after, done) in [
        (SIZE, end, vec![raised]),
        (SIZE - BLOCK, SIZE + BLOCK, vec![raised]),
        (SIZE - 2 * BLOCK, SIZE, vec![]),
    ] {
        let found = judged(write(A, 0, offset, after, &done));
        assert_eq!(found, [""; 0], "at {offset}");
    }
    // The size that another has moved meanwhile is its own to raise.
    let mut recorder = Recorder::new();
    recorder.run(1, missing[..2].to_vec());
    recorder.run(2, write(A, 0, SIZE, end, &[raised]));
    recorder.run(1, missing[2..].to_vec());
    assert_eq!(found(&recorder.finish()), [""; 0]);
    // A direct write may fall back to the page cache; ext4 raises it where no hook is.
    let direct = write(A, IOCB_DIRECT, SIZE, end, &[]);
    assert_eq!(judged_on(XFS, direct), [""; 0]);
    let direct = write(A, IOCB_DIRECT, SIZE, end, &[]);
    assert_eq!(judged_on(EXT4, direct), [""; 0]);
}

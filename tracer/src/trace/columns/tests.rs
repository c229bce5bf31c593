use proptest::prelude::*;
use tracer_ebpf::{Event, Head};

use super::{Decoder, Encoder, Malformed};

fn decode(batch: &[u8], count: usize, limit: usize) -> Result<Vec<Event>, Malformed> {
    let mut decoder = Decoder::default();
    let (mut all, mut some) = (Vec::new(), Vec::new());
    decoder.start(batch, count)?;
    while decoder.left() > 0 {
        decoder.next(batch, limit, &mut some)?;
        all.extend_from_slice(&some);
    }
    Ok(all)
}

fn encode(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::default().encode(events, &mut out);
    out
}

/// Values that repeat, that sit at the ends, and any other.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..4_u64,
        2 => prop::sample::select(vec![u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 63, 1 << 52]),
        2 => 0xffff_8880_0000_0000..0xffff_8880_0000_0008_u64,
        1 => any::<u64>(),
    ]
}

fn short() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..4_u32, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn event() -> impl Strategy<Value = Event> {
    let head = (
        word(),
        short(),
        short(),
        short(),
        any::<u8>(),
        any::<u8>(),
        short(),
    );
    let head = head.prop_map(|(time, task, seq, hook, depth, flags, stack)| Head {
        time,
        task,
        seq,
        hook: hook as u16,
        depth,
        flags: flags % 3,
        stack: stack as i32,
    });
    let payload = (any::<bool>(), word(), word(), word(), word(), word());
    (head, payload).prop_map(|(head, (lock, inode, a, b, c, size))| {
        let b = if lock { inode.wrapping_add(a) } else { b };
        Event {
            head,
            inode,
            a,
            b,
            c,
            size,
        }
    })
}

proptest! {
    #[test]
    fn any_events_round_trip(events in prop::collection::vec(event(), 0..150), limit in 1..70_usize) {
        let batch = encode(&events);
        prop_assert_eq!(decode(&batch, events.len(), limit), Ok(events));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), count in 0..700_usize) {
        let _ = decode(&bytes, count, 16);
    }

    #[test]
    fn any_damage_is_survived(
        events in prop::collection::vec(event(), 1..60),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut batch = encode(&events);
        let at = at.index(batch.len());
        batch[at] = byte;
        let _ = decode(&batch, events.len(), 16);
        let _ = decode(&batch[..at], events.len(), 16);
    }
}

#[test]
fn an_encoder_starts_afresh_with_every_batch() {
    let event = |time, task, inode| Event {
        head: Head {
            time,
            task,
            seq: 7,
            hook: 3,
            stack: -1,
            ..Head::default()
        },
        inode,
        ..Event::default()
    };
    let first = [event(1, 10, 100), event(2, 11, 101)];
    let second = [event(3, 11, 102), event(4, 10, 100)];
    let mut encoder = Encoder::default();
    encoder.encode(&first, &mut Vec::new());
    let mut batch = Vec::new();
    encoder.encode(&second, &mut batch);
    assert_eq!(decode(&batch, 2, 9), Ok(second.to_vec()));
    assert_eq!(batch, encode(&second));
}

#[test]
fn a_lock_address_costs_nothing() {
    let events: Vec<Event> = (0..1000)
        .map(|at| Event {
            head: Head {
                time: at * 100,
                task: 5,
                seq: at as u32,
                hook: 1,
                stack: -1,
                ..Head::default()
            },
            inode: 0xffff_8880_1234_5000,
            a: 0x98,
            b: 0xffff_8880_1234_5098,
            ..Event::default()
        })
        .collect();
    let batch = encode(&events);
    // Two bytes of time and one of shape.
    assert!(batch.len() < 3 * events.len() + 200, "{}", batch.len());
}

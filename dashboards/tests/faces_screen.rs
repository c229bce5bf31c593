//! Every view of `replay` at four sizes, of a recorded trace; and what keys and the mouse do.

use std::time::Duration;

use crossterm::event::{
    Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use dashboards::tui::{
    Feed, FileFeed, Model, Outcome, Palette, Position, State, Transport, View, draw,
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    style::{Color, Modifier},
};
use tracer::{
    hooks::{Effect, Entry, FilesystemKind, LockAction, LockClass, LockPlace, Mode},
    trace::{Header, Inode, Loss, LossCause, PlannedHook, Task, Trace, Writer},
    units::{Ino, InodeAddress, Nanos, Pid, Tid},
};
use tracer_ebpf::Head;

const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";
const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (200, 50), (250, 60)];

struct Session<'t> {
    feed: FileFeed<'t>,
    model: Model,
    state: State,
}

impl<'t> Session<'t> {
    fn open(trace: &'t Trace) -> Self {
        let (mut feed, mut model) = FileFeed::new(trace);
        feed.finish(&mut model);
        Self {
            feed,
            model,
            state: State::default(),
        }
    }

    fn screen(&mut self, (width, height): (u16, u16), palette: Palette) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let position = self.feed.position();
        terminal
            .draw(|frame| {
                draw(
                    frame,
                    &self.model,
                    &mut self.state,
                    position.as_ref(),
                    palette,
                )
            })
            .unwrap();
        terminal.backend().to_string()
    }

    fn plain(&mut self) -> String {
        self.screen((120, 40), Palette::new(false))
    }

    fn input(&mut self, event: &Event) -> Outcome {
        let outcome = self.state.input(event, &mut self.model, &mut self.feed);
        self.feed.finish(&mut self.model);
        outcome
    }

    fn key(&mut self, code: KeyCode) -> Outcome {
        let outcome = self.input(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        self.plain();
        outcome
    }

    fn keys(&mut self, text: &str) {
        for character in text.chars() {
            self.key(KeyCode::Char(character));
        }
    }
}

#[test]
fn every_view_at_four_sizes() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    for view in View::ALL {
        for size in SIZES {
            session.state = State {
                view,
                ..State::default()
            };
            let name = format!("{}-{}x{}", view.name().to_lowercase(), size.0, size.1);
            insta::assert_snapshot!(name, session.screen(size, Palette::new(false)));
        }
    }
}

/// Events were lost behind the last one that was not.
#[test]
fn a_loss_at_the_end_leaves_the_end_where_it_is() {
    let trace = Trace::open(BROKEN).unwrap();
    let (_, end) = trace.time_range().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lost.flt");
    let mut writer = Writer::create(&path, trace.header()).unwrap();
    writer.inodes(trace.inodes());
    writer.tasks(trace.tasks());
    writer.stacks(trace.stacks());
    trace.for_each(|cpu, &event| writer.events(cpu, &[event]).unwrap());
    writer.loss(&Loss {
        cpu: Some(0),
        from: Nanos(end.0 + 1000),
        to: Nanos(end.0 + 2000),
        count: 1,
        cause: LossCause::Ring,
    });
    writer.finish(trace.footer().unwrap()).unwrap();
    let lost = Trace::open(&path).unwrap();
    let position = Session::open(&lost).feed.position().unwrap();
    assert_eq!(position.at, position.to);
    assert!(!position.findings.is_empty(), "no finding is marked");
}

/// Waits are on the screen only while they last.
#[test]
fn a_moment_at_which_a_task_waits() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    session.keys("4{");
    for _ in 0..200 {
        session.key(KeyCode::Char(']'));
        let screen = session.plain();
        if screen.contains("──▶") {
            assert!(screen.contains("waits, no cycle"), "{screen}");
            session.keys("2");
            let locks = session.plain();
            assert!(locks.contains("waits "), "{locks}");
            return;
        }
    }
    panic!("nobody ever waited");
}

#[test]
fn colours_change_no_character() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    for view in View::ALL {
        session.state.view = view;
        let plain = session.screen((120, 40), Palette::new(false));
        assert_eq!(session.screen((120, 40), Palette::new(true)), plain);
    }
}

#[test]
fn no_size_breaks_a_view() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    for help in [false, true] {
        for view in View::ALL {
            for size in [
                (1, 1),
                (2, 3),
                (10, 2),
                (20, 5),
                (40, 12),
                (300, 100),
                (17, 60),
            ] {
                session.state.view = view;
                session.state.help = help;
                session.screen(size, Palette::new(true));
                // What is clicked need not be there any more.
                session.input(&click(size.0.saturating_sub(1), size.1 / 2));
            }
        }
    }
}

fn click(column: u16, row: u16) -> Event {
    Event::Mouse(MouseEvent {
        kind: MouseEventKind::Down(MouseButton::Left),
        column,
        row,
        modifiers: KeyModifiers::NONE,
    })
}

#[test]
fn from_a_finding_to_its_moment() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    session.keys("5");
    let finding = session.model.report.findings[0].clone();
    session.key(KeyCode::Enter);
    assert_eq!(session.state.view, View::Windows);
    let (file, from, to) = session.state.places.shown.unwrap();
    assert_eq!(file, finding.file);
    assert!(from <= finding.time_ns && finding.time_ns <= to);
    let screen = session.plain();
    assert!(screen.contains('▒') && screen.contains('◆'), "{screen}");
    insta::assert_snapshot!("finding-in-windows", screen);
}

#[test]
fn the_wheel_zooms_a_plot_and_moves_in_a_list() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    let wheel = |kind| {
        Event::Mouse(MouseEvent {
            kind,
            column: 20,
            row: 10,
            modifiers: KeyModifiers::NONE,
        })
    };
    session.keys("2");
    session.input(&wheel(MouseEventKind::ScrollDown));
    assert_eq!(session.state.row(), 3);
    session.keys("3");
    let width = |session: &mut Session<'_>| {
        session.plain();
        let (_, from, to) = session.state.places.shown.unwrap();
        to.0 - from.0
    };
    let whole = width(&mut session);
    session.input(&wheel(MouseEventKind::ScrollUp));
    assert_eq!(width(&mut session), whole / 2);
    session.input(&wheel(MouseEventKind::ScrollDown));
    assert_eq!(width(&mut session), whole / 2 * 2);
}

#[test]
fn the_time_bar() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    session.plain();
    let whole = session.model.report.events;
    session.keys("{");
    assert!(session.model.report.events < 5);
    // The first occurrence makes a finding; its best witness is what the bar marks.
    session.keys("n");
    let found = session.feed.position().unwrap();
    assert_eq!(found.at, found.findings[0]);
    assert_eq!(session.model.report.findings.len(), 1);
    let bar = session.state.places.bar;
    session.input(&click(bar.right() - 1, bar.y));
    assert_eq!(session.model.report.events, whole);
    session.input(&click(bar.x + bar.width / 2, bar.y));
    let position = session.feed.position().unwrap();
    let middle = position.from.0 + (position.to.0 - position.from.0) / 2;
    let off = position.at.0.abs_diff(middle) as f64 / (position.to.0 - position.from.0) as f64;
    assert!(off < 0.02, "{off}");
}

#[test]
fn playing_goes_on_by_itself() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    session.keys("{");
    let before = session.feed.position().unwrap().at;
    session.state.input(
        &Event::Key(KeyEvent::new(KeyCode::Char(' '), KeyModifiers::NONE)),
        &mut session.model,
        &mut session.feed,
    );
    let mut turns = 0;
    while session.feed.position().unwrap().at <= before {
        let pause = session
            .feed
            .advance(&mut session.model, Duration::from_millis(5))
            .unwrap();
        std::thread::sleep(pause);
        turns += 1;
        assert!(turns < 1000, "it stands still");
    }
    session.keys(" ");
    assert!(!session.feed.position().unwrap().playing);
}

#[test]
fn filters_tabs_and_help() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    session.keys("2");
    assert!(session.plain().contains("ilock"));
    session.keys("/invalidate");
    session.key(KeyCode::Enter);
    let filtered = session.plain();
    assert!(filtered.contains("invalidate_lock") && !filtered.contains("xfs ilock"));
    session.key(KeyCode::Esc);
    assert!(session.plain().contains("xfs ilock"));
    session.keys("?");
    let help = session.plain();
    assert!(
        help.contains("order by wait") && help.contains("play or stop"),
        "{help}"
    );
    insta::assert_snapshot!("help", help);
    session.keys("?");
    let (tab, view) = session.state.places.tabs[4];
    session.input(&click(tab.x + 1, tab.y));
    assert_eq!(session.state.view, view);
    assert_eq!(session.key(KeyCode::Char('q')), Outcome::Quit);
}

#[test]
fn a_time_that_is_typed() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut session = Session::open(&trace);
    let span = |session: &Session<'_>| {
        let position = session.feed.position().unwrap();
        (position.from.0, position.at.0, position.to.0)
    };
    session.keys("t1.5");
    assert!(session.plain().contains("go to 1.5"));
    session.key(KeyCode::Enter);
    let (from, at, to) = span(&session);
    assert_eq!(at, from + 1_500_000_000);
    session.keys("t40%");
    session.key(KeyCode::Enter);
    let share = (span(&session).1 - from) as f64 / (to - from) as f64;
    assert!((share - 0.4).abs() < 1e-6, "{share}");
    session.keys(&format!("t{}s", (from + 2_000_000_000) as f64 / 1e9));
    session.key(KeyCode::Enter);
    assert!(span(&session).1.abs_diff(from + 2_000_000_000) < 1000);
    session.keys("tsoon");
    session.key(KeyCode::Enter);
    assert!(span(&session).1.abs_diff(from + 2_000_000_000) < 1000);
    session.keys("t9");
    session.key(KeyCode::Esc);
    assert!(!session.plain().contains("go to"));
}

/// A run that goes on in the present.
struct Present;

impl Feed for Present {
    fn advance(&mut self, _: &mut Model, _: Duration) -> anyhow::Result<Duration> {
        Ok(Duration::ZERO)
    }
    fn position(&self) -> Option<Position> {
        None
    }
    fn transport(&mut self, _: &mut Model, _: Transport) {}
}

/// What two tasks do that take each other's lock: one punches under `i_rwsem` and wants the invalidate lock, which
/// a fault holds that wants `i_rwsem`.
fn embraced(header: &Header) -> Model {
    let hook = |effect: Effect| {
        let of = |hook: &&PlannedHook| hook.effect == effect && hook.attached.is_ok();
        header.hooks.iter().find(of).unwrap().id.0
    };
    let place = |class: LockClass| {
        let of =
            |place: &&LockPlace| (place.filesystem, place.class) == (FilesystemKind::Xfs, class);
        header.locks.iter().find(of).unwrap().offset as u64
    };
    let (rwsem, invalidate) = (place(LockClass::IRwsem), place(LockClass::InvalidateLock));
    const FILE: u64 = 0xffff_8881_0432_1000;
    // include/trace/events/lock.h: LCB_F_WRITE
    const WRITE: u64 = 1 << 2;
    let lock = |action| hook(Effect::Lock(action));
    let punch = [
        (hook(Effect::Enter(Entry::Fallocate)), [0, 4096, 3]),
        (
            lock(LockAction::Acquire(Mode::Excl)),
            [rwsem, FILE + rwsem, 0],
        ),
        (
            lock(LockAction::Wait),
            [invalidate, FILE + invalidate, WRITE],
        ),
    ];
    let fault = [
        (hook(Effect::Enter(Entry::Fault)), [0, 0x7000_0000, 0x254]),
        (
            lock(LockAction::Acquire(Mode::Shared)),
            [invalidate, FILE + invalidate, 0],
        ),
        (lock(LockAction::Wait), [rwsem, FILE + rwsem, WRITE]),
    ];
    let mut model = Model::new(header);
    let device = header.mounts[0].device;
    model.story.inode(&Inode {
        since: header.started,
        address: InodeAddress(FILE),
        ino: Ino(131),
        generation: 1,
        device,
        block_bits: 12,
        dax: true,
        path: "file".to_owned(),
    });
    let mut time = header.started.0;
    for (tid, name, steps) in [(7, "puncher", punch), (8, "faulter", fault)] {
        model.story.task(&Task {
            tid: Tid(tid),
            pid: Pid(tid),
            name: name.to_owned(),
        });
        for (seq, (hook, [a, b, c])) in steps.into_iter().enumerate() {
            time += 1000;
            let head = Head {
                time,
                task: tid,
                seq: seq as u32,
                hook,
                depth: 1,
                flags: 0,
                stack: -1,
            };
            let event = tracer_ebpf::Event {
                head,
                inode: FILE,
                a,
                b,
                c,
                size: 1 << 20,
            };
            model.event(0, &event);
        }
    }
    model.refresh_now();
    model
}

#[test]
fn tasks_that_wait_for_each_other_are_red() {
    let trace = Trace::open(BROKEN).unwrap();
    let mut model = embraced(trace.header());
    let mut state = State::default();
    let four = Event::Key(KeyEvent::new(KeyCode::Char('4'), KeyModifiers::NONE));
    state.input(&four, &mut model, &mut Present);
    for (colour, palette) in [(true, Palette::new(true)), (false, Palette::new(false))] {
        let mut terminal = Terminal::new(TestBackend::new(120, 24)).unwrap();
        terminal
            .draw(|frame| draw(frame, &model, &mut state, None, palette))
            .unwrap();
        let screen = terminal.backend().to_string();
        assert!(screen.contains("2 tasks in a cycle: DEADLOCK"), "{screen}");
        let rows: Vec<u16> = (0u16..)
            .zip(screen.lines())
            .filter(|(_, line)| line.contains("CYCLE"))
            .map(|(row, _)| row)
            .collect();
        assert_eq!(rows.len(), 2, "{screen}");
        for row in rows {
            let cell = &terminal.backend().buffer()[(4, row)];
            if colour {
                assert_eq!(cell.fg, Color::Rgb(213, 94, 0));
            }
            assert!(cell.modifier.contains(Modifier::BOLD));
        }
        if !colour {
            insta::assert_snapshot!("waiting-for-each-other", screen);
        }
    }
}

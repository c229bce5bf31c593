//! Keys as data: what they do, where, and what the help says of them.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Transport, View};

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Show or hide the help.
    Help,
    /// Show a view.
    Show(View),
    /// The next view.
    NextView,
    /// The one before.
    PreviousView,
    /// Down in a list.
    Down(usize),
    /// Up in a list.
    Up(usize),
    /// To a list's beginning.
    First,
    /// To a list's end.
    Last,
    /// Begin to type a filter.
    Filter,
    /// Drop the filter, or close what is open.
    Escape,
    /// The next order of the table.
    Sort,
    /// The next grouping of the table.
    Group,
    /// The next file.
    NextFile,
    /// The file before.
    PreviousFile,
    /// Closer.
    ZoomIn,
    /// Further away.
    ZoomOut,
    /// Earlier.
    PanLeft,
    /// Later.
    PanRight,
    /// Follow the present again.
    Follow,
    /// To the selected finding's moment.
    Jump,
    /// Begin to type a time to go to.
    GoTo,
    /// A story's own affairs.
    Transport(Transport),
}

/// Where a key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    All,
    /// In one view.
    In(View),
    /// Where the story has a beginning and an end.
    Recorded,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Keys that do it.
    pub keys: &'static [KeyCode],
    /// What it does.
    pub action: Action,
    /// Where.
    pub scope: Scope,
    /// The keys, for people; empty if another row of the help speaks for it.
    pub label: &'static str,
    /// What it does, for people.
    pub help: &'static str,
}

const fn bind(
    keys: &'static [KeyCode],
    action: Action,
    scope: Scope,
    label: &'static str,
    help: &'static str,
) -> Binding {
    Binding {
        keys,
        action,
        scope,
        label,
        help,
    }
}

use KeyCode::{BackTab, Char, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Tab, Up};

/// Every key. Rows of one view go before those for all.
pub const BINDINGS: &[Binding] = &[
    bind(&[Char('q')], Action::Quit, Scope::All, "q", "leave"),
    bind(
        &[Char('?'), KeyCode::F(1)],
        Action::Help,
        Scope::All,
        "?",
        "show or hide this help",
    ),
    bind(
        &[Char('1')],
        Action::Show(View::Overview),
        Scope::All,
        "1..6",
        "show a view",
    ),
    bind(&[Char('2')], Action::Show(View::Locks), Scope::All, "", ""),
    bind(
        &[Char('3')],
        Action::Show(View::Windows),
        Scope::All,
        "",
        "",
    ),
    bind(
        &[Char('4')],
        Action::Show(View::WaitFor),
        Scope::All,
        "",
        "",
    ),
    bind(
        &[Char('5')],
        Action::Show(View::Findings),
        Scope::All,
        "",
        "",
    ),
    bind(&[Char('6')], Action::Show(View::Events), Scope::All, "", ""),
    bind(
        &[Tab],
        Action::NextView,
        Scope::All,
        "Tab",
        "the next view; with Shift the one before",
    ),
    bind(&[BackTab], Action::PreviousView, Scope::All, "", ""),
    bind(
        &[Left, Char('h')],
        Action::PanLeft,
        Scope::In(View::Windows),
        "Left Right",
        "earlier, later",
    ),
    bind(
        &[Right, Char('l')],
        Action::PanRight,
        Scope::In(View::Windows),
        "",
        "",
    ),
    bind(
        &[Char('+'), Char('=')],
        Action::ZoomIn,
        Scope::In(View::Windows),
        "+ -",
        "closer, further away; also the wheel",
    ),
    bind(
        &[Char('-')],
        Action::ZoomOut,
        Scope::In(View::Windows),
        "",
        "",
    ),
    bind(
        &[Down, Char('j')],
        Action::NextFile,
        Scope::In(View::Windows),
        "Down Up",
        "the next file, the one before",
    ),
    bind(
        &[Up, Char('k')],
        Action::PreviousFile,
        Scope::In(View::Windows),
        "",
        "",
    ),
    bind(
        &[Char('f')],
        Action::Follow,
        Scope::In(View::Windows),
        "f",
        "back to the latest",
    ),
    bind(
        &[Enter],
        Action::Jump,
        Scope::In(View::Findings),
        "Enter",
        "show the finding's moment in Windows",
    ),
    bind(
        &[Char('s')],
        Action::Sort,
        Scope::In(View::Locks),
        "s",
        "order by wait, contention, hold, acquisitions",
    ),
    bind(
        &[Char('g')],
        Action::Group,
        Scope::In(View::Locks),
        "g",
        "by class, by caller, by owner",
    ),
    bind(
        &[Down, Char('j')],
        Action::Down(1),
        Scope::All,
        "Down Up",
        "move in a list; also the wheel, PgDn, PgUp, Home, End",
    ),
    bind(&[Up, Char('k')], Action::Up(1), Scope::All, "", ""),
    bind(&[PageDown], Action::Down(10), Scope::All, "", ""),
    bind(&[PageUp], Action::Up(10), Scope::All, "", ""),
    bind(&[Home], Action::First, Scope::All, "", ""),
    bind(&[End], Action::Last, Scope::All, "", ""),
    bind(
        &[Char('/')],
        Action::Filter,
        Scope::All,
        "/",
        "filter the list; Enter keeps it, Esc drops it",
    ),
    bind(&[Esc], Action::Escape, Scope::All, "", ""),
    bind(
        &[Char(' ')],
        Action::Transport(Transport::Toggle),
        Scope::Recorded,
        "Space",
        "play or stop",
    ),
    bind(
        &[Char('>'), Char('.')],
        Action::Transport(Transport::Faster),
        Scope::Recorded,
        "> <",
        "faster, slower",
    ),
    bind(
        &[Char('<'), Char(',')],
        Action::Transport(Transport::Slower),
        Scope::Recorded,
        "",
        "",
    ),
    bind(
        &[Char('n')],
        Action::Transport(Transport::NextFinding),
        Scope::Recorded,
        "n p",
        "to the next finding, the one before",
    ),
    bind(
        &[Char('p')],
        Action::Transport(Transport::PreviousFinding),
        Scope::Recorded,
        "",
        "",
    ),
    bind(
        &[Char(']')],
        Action::Transport(Transport::Step(0.02)),
        Scope::Recorded,
        "] [",
        "a fiftieth later, earlier; a click on the bar goes there",
    ),
    bind(
        &[Char('[')],
        Action::Transport(Transport::Step(-0.02)),
        Scope::Recorded,
        "",
        "",
    ),
    bind(
        &[Char('t')],
        Action::GoTo,
        Scope::Recorded,
        "t",
        "go to a time: 3.5 from the beginning, 75.4s by the clock, 40%",
    ),
    bind(
        &[Char('}')],
        Action::Transport(Transport::SeekShare(1.0)),
        Scope::Recorded,
        "} {",
        "to the end, to the beginning",
    ),
    bind(
        &[Char('{')],
        Action::Transport(Transport::SeekShare(0.0)),
        Scope::Recorded,
        "",
        "",
    ),
];

impl Binding {
    /// Whether it works in a view, and none of the view's own keys takes its place.
    pub fn works(&self, view: View, recorded: bool) -> bool {
        let own = |other: &Binding| {
            other.scope == Scope::In(view) && other.keys.iter().any(|key| self.keys.contains(key))
        };
        match self.scope {
            Scope::All => !BINDINGS.iter().any(own),
            Scope::In(of) => of == view,
            Scope::Recorded => recorded,
        }
    }
}

/// What a key does in a view.
pub fn action(key: KeyEvent, view: View, recorded: bool) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, Char('c' | 'd')).then_some(Action::Quit);
    }
    BINDINGS
        .iter()
        .find(|binding| binding.keys.contains(&key.code) && binding.works(view, recorded))
        .map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_bound_twice_where_both_would_work() {
        for (index, one) in BINDINGS.iter().enumerate() {
            for other in &BINDINGS[index + 1..] {
                let shared = one.keys.iter().any(|key| other.keys.contains(key));
                // A view's own key may come before one for all.
                let both = one.scope == other.scope || matches!(one.scope, Scope::All);
                assert!(!(shared && both), "{one:?} and {other:?}");
            }
        }
    }
}

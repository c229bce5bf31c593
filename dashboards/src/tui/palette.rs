//! Colours by what they mean. Okabe and Ito's, which colour-blind eyes tell apart; without colour, weight
//! and reversal say it, and marks differ by shape in any case.

use ratatui::style::{Color, Modifier, Style};
use tracer::judge::{Verdict, facts::Outcome, finding::Strength};

use crate::cli;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Explanations, axes.
    Dim,
    /// Heads of tables.
    Head,
    /// What is selected.
    Selected,
    /// A key, or the view on top.
    Accent,
    /// As it should be.
    Good,
    /// Wrong.
    Bad,
    /// Not known.
    Unsure,
    /// A window, faults locked out.
    Window,
    /// A window that broke a rule.
    Breach,
    /// What became of a fault.
    Fault(Outcome),
}

/// With colours or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    colour: bool,
}

impl Palette {
    /// With or without colours.
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// As asked for, else by <https://no-color.org>.
    pub fn chosen(color: cli::Color) -> Self {
        let quiet = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(match color {
            cli::Color::Always => true,
            cli::Color::Never => false,
            cli::Color::Auto => !quiet,
        })
    }

    /// Whether it has colours.
    pub fn coloured(self) -> bool {
        self.colour
    }

    /// How something looks.
    pub fn style(self, role: Role) -> Style {
        let plain = Style::new();
        if !self.colour {
            return match role {
                Role::Dim | Role::Fault(Outcome::Clear) => plain.add_modifier(Modifier::DIM),
                Role::Head | Role::Accent | Role::Bad | Role::Fault(Outcome::Inside) => {
                    plain.add_modifier(Modifier::BOLD)
                }
                Role::Selected | Role::Breach => plain.add_modifier(Modifier::REVERSED),
                _ => plain,
            };
        }
        let vermilion = Color::Rgb(213, 94, 0);
        let blue = Color::Rgb(86, 180, 233);
        let green = Color::Rgb(0, 158, 115);
        let yellow = Color::Rgb(230, 159, 0);
        match role {
            Role::Dim => plain.fg(Color::DarkGray),
            Role::Head => plain.fg(Color::DarkGray).add_modifier(Modifier::BOLD),
            Role::Selected => plain.add_modifier(Modifier::REVERSED),
            Role::Accent => plain.fg(blue).add_modifier(Modifier::BOLD),
            Role::Good => plain.fg(green),
            Role::Bad => plain.fg(vermilion).add_modifier(Modifier::BOLD),
            Role::Unsure => plain.fg(yellow),
            Role::Window => plain.fg(green),
            Role::Breach => plain.fg(vermilion),
            Role::Fault(Outcome::Clear) => plain.fg(Color::DarkGray),
            Role::Fault(Outcome::Beside) => plain.fg(Color::Gray),
            Role::Fault(Outcome::HeldOff) => plain.fg(blue),
            Role::Fault(Outcome::Inside) => plain.fg(vermilion).add_modifier(Modifier::BOLD),
        }
    }

    /// How a verdict looks.
    pub fn verdict(self, verdict: Verdict) -> Style {
        self.style(match verdict {
            Verdict::Clean => Role::Good,
            Verdict::Findings => Role::Bad,
            Verdict::Inconclusive => Role::Unsure,
        })
    }

    /// How a strength looks.
    pub fn strength(self, strength: Strength) -> Style {
        self.style(match strength {
            Strength::Predicted => Role::Unsure,
            Strength::Observed | Strength::Proven => Role::Bad,
        })
    }
}

/// The mark of a fault.
pub fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Clear => "·",
        Outcome::Beside => "○",
        Outcome::HeldOff => "■",
        Outcome::Inside => "◆",
    }
}

//! `top` and `replay`: one program, which cannot tell a machine from a trace.

mod feed;
mod keys;
mod model;
mod palette;
mod state;
mod terminal;
mod views;

pub use feed::{Feed, FileFeed, Position, RingFeed, Transport};
pub use model::{Model, REFRESH};
pub use palette::Palette;
pub use state::{Outcome, State, Typing, View};
pub use terminal::{FRAME, require as require_terminal, run};
pub use views::draw;

//! What came of it, for people: on the terminal, and in the READMEs with a
//! chart.

mod chart;
mod goals;
mod publish;
mod rows;
mod tables;
mod terminal;

pub(crate) use publish::publish;
pub(crate) use terminal::for_terminal;

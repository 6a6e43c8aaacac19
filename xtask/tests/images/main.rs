//! Images: what is in them must be in the guest, what is wrong with them must be said, and whatever is made of them must be
//! the same wherever and whenever it is made.

#[path = "../road/mod.rs"]
mod road;

mod foreign;
mod hostile;
mod killed;
mod layers;
mod registry;
mod reproducible;
mod tokens;

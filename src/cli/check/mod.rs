//! `tidewheel check`: whether a configuration can be used, and whether this machine carries what it
//! asks for. It starts nothing.

pub mod machine;

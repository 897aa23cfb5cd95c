//! The dialect as a whole: what is read, what is written, and what holds for any bytes.

mod encode;
mod parse;
mod properties;

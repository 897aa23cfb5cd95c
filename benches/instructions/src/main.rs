//! One path of the server, to be run under `valgrind --tool=callgrind`.
//!
//! ```text
//! tidewheel-instructions               the names of the paths, and what each counts
//! tidewheel-instructions publish       runs one: what `measured` does is what counts
//! ```
//!
//! Everything is one shard, or two joined in memory, driven as the reactor drives them, with a sink
//! in the place of the sockets. The same bytes, times and seeds each time, so the instructions are
//! the same each time, whatever else the machine does. `cargo xtask instructions` runs all paths and
//! holds their counts against `counts.toml` beside this package's `Cargo.toml`.

mod paths;
mod rooms;

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Callgrind counts while this runs: `--toggle-collect=tidewheel_instructions::measured`.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    work();
    // Without something behind it the call is a jump, and the function not on the stack.
    std::hint::black_box(());
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1);
    match name {
        None => {
            for path in &paths::PATHS {
                println!("{} {} {}", path.name, path.times, path.about);
            }
            ExitCode::SUCCESS
        }
        Some(name) => match paths::PATHS.iter().find(|path| path.name == name) {
            Some(path) => {
                (path.run)();
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("no path is called `{name}`");
                ExitCode::from(2)
            }
        },
    }
}

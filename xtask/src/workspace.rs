//! Where things are.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The repository on this machine.
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
}

impl Workspace {
    /// The workspace whose `cargo xtask` this is.
    pub fn find() -> Workspace {
        // Cargo says at run time where the package is; a shared target folder may hold a program
        // that was compiled in another checkout.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().unwrap_or(&package).to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Workspace { root, target }
    }

    /// The server, as the step `build` makes it.
    pub fn binary(&self) -> PathBuf {
        self.target.join("quick").join("tidewheel")
    }

    /// The Python environment that the step `python` makes.
    pub fn venv(&self) -> PathBuf {
        self.target.join("venv")
    }

    /// The clients' tests in JavaScript.
    pub fn node_clients(&self) -> PathBuf {
        self.root.join("tests/clients/node")
    }

    /// The clients' tests in Python.
    pub fn python_clients(&self) -> PathBuf {
        self.root.join("tests/clients/python")
    }

    /// A cargo command, run at the root. Rustup has set the toolchain in the environment.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(arguments);
        command
    }

    /// A command, run at the root.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(&self.root);
        command
    }
}

//! Installing what the tests need and the machine lacks.
//!
//! Nothing is touched where everything is there. Debian packages are installed for root, as in
//! CI; anyone else is told what to install. npm and pip packages go into this checkout.

use std::fs;
use std::path::{Path, PathBuf};

use crate::instructions;
use crate::process::{command_line, find_program, run, succeeds};
use crate::workspace::Workspace;

/// A program that the tests run, and the Debian package that has it.
struct Need {
    programs: &'static [&'static str],
    package: &'static str,
}

const BROWSER: Need = Need {
    programs: &["chromium", "chromium-browser", "google-chrome"],
    package: "chromium",
};
const NODE: Need = Need {
    programs: &["node"],
    package: "nodejs",
};
const NPM: Need = Need {
    programs: &["npm"],
    package: "npm",
};
const PYTHON: Need = Need {
    programs: &["python3"],
    package: "python3",
};

const VALGRIND: Need = Need {
    programs: &["valgrind"],
    package: "valgrind",
};

/// The browser that the clients' tests drive.
pub fn browser() -> Option<PathBuf> {
    find_program(BROWSER.programs)
}

/// Rust's own tools: formatter and lints.
pub fn rust_tools(workspace: &Workspace) -> Result<(), String> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if succeeds(&mut workspace.cargo(&[subcommand, "--version"])) {
            continue;
        }
        let mut rustup = workspace.command("rustup");
        run(rustup.args(["component", "add", component]))?;
    }
    Ok(())
}

/// Programs from the system's packages.
pub fn system_packages(workspace: &Workspace) -> Result<(), String> {
    let mut packages = Vec::new();
    let counter = instructions::absent().is_none().then_some(VALGRIND);
    for need in [BROWSER, NODE, NPM, PYTHON].into_iter().chain(counter) {
        if find_program(need.programs).is_none() {
            packages.push(need.package);
        }
    }
    // Debian's Python comes without what makes an environment.
    let mut ensurepip = workspace.command("python3");
    if !succeeds(ensurepip.args(["-c", "import venv, ensurepip"])) {
        packages.push("python3-venv");
    }
    if packages.is_empty() {
        return Ok(());
    }
    install(workspace, &packages)
}

fn install(workspace: &Workspace, packages: &[&str]) -> Result<(), String> {
    let mut install = workspace.command("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if find_program(&["apt-get"]).is_none() {
        return Err(format!(
            "missing: {}; install these with the package manager of this system",
            packages.join(", ")
        ));
    }
    if !is_root(workspace) {
        return Err(format!(
            "missing programs; run `sudo {}`",
            command_line(&install)
        ));
    }
    run(workspace.command("apt-get").arg("update"))?;
    run(&mut install)
}

fn is_root(workspace: &Workspace) -> bool {
    let id = workspace.command("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The npm packages of the clients' tests, exactly as their lock file has them.
pub fn node_packages(workspace: &Workspace) -> Result<(), String> {
    let folder = workspace.node_clients();
    let lock = folder.join("package-lock.json");
    let stamp = folder.join("node_modules/.tidewheel-lock");
    if is_copy(&stamp, &lock) {
        return Ok(());
    }
    let mut npm = workspace.command("npm");
    npm.args(["ci", "--no-audit", "--no-fund"])
        .current_dir(&folder)
        // The browser is the system's.
        .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
    run(&mut npm)?;
    leave_copy(&lock, &stamp)
}

/// The Python packages of the clients' tests, in an environment of their own.
pub fn python_packages(workspace: &Workspace) -> Result<(), String> {
    let requirements = workspace.python_clients().join("requirements.txt");
    let venv = workspace.venv();
    let stamp = venv.join("requirements.txt");
    if is_copy(&stamp, &requirements) {
        return Ok(());
    }
    run(workspace
        .command("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv))?;
    let mut pip = workspace.command(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(&requirements);
    run(&mut pip)?;
    leave_copy(&requirements, &stamp)
}

fn is_copy(copy: &Path, original: &Path) -> bool {
    match (fs::read(copy), fs::read(original)) {
        (Ok(copy), Ok(original)) => copy == original,
        _ => false,
    }
}

/// Leaves a copy of what was installed, so that the next run sees that nothing is to be done.
fn leave_copy(original: &Path, copy: &Path) -> Result<(), String> {
    fs::copy(original, copy)
        .map(drop)
        .map_err(|error| format!("cannot write {}: {error}", copy.display()))
}

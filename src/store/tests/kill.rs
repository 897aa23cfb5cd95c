//! A process that is killed: this test's own program, run again as a child that writes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "TIDEWHEEL_STORE_TEST_CHILD";

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let (mut store, contents) = Running::open(settings(Path::new(&folder), Durability::Fsync));
    let first = contents.rooms.first().map_or(0, |room| room.offset);
    for offset in first + 1.. {
        store.send(vec![message("r", 1, offset, offset.saturating_sub(50))]);
        assert_eq!(store.settle(), None);
        println!("stored {offset}");
    }
}

#[test]
fn what_was_answered_in_fsync_mode_survives_a_kill() {
    let scratch = Scratch::new("kill");
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::kill::child",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, scratch.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let mut number = || {
            let line = lines.find_map(|line| Some(line.split_once("stored ")?.1.to_owned()))?;
            line.trim().parse::<u64>().ok()
        };
        let mut answered = 0;
        for _ in 0..random.u32(1..120) {
            answered = number().unwrap();
        }
        child.kill().unwrap();
        while let Some(offset) = number() {
            answered = offset;
        }
        child.wait().unwrap();
        let contents = load_again(scratch.path(), Durability::Fsync);
        assert_eq!(contents.damage, None);
        assert!(!contents.renewed);
        let r = &contents.rooms[0];
        assert!(
            r.offset == answered || r.offset == answered + 1,
            "{} {answered}",
            r.offset
        );
        let kept = r.offset.min(50);
        assert_eq!(bodies(r).len() as u64, kept);
    }
}

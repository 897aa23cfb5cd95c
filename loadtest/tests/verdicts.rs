//! The program's exit code: what it accepts of a server, and what not.
#![allow(
    clippy::unwrap_used,
    reason = "the test's own server is part of the test"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn tidewheel_load(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidewheel-load"))
        .args(args.split_whitespace())
        .output()
        .unwrap()
}

fn text_frame(text: &str) -> Vec<u8> {
    let mut wire = vec![0x81, 126];
    wire.extend_from_slice(&(text.len() as u16).to_be_bytes());
    wire.extend_from_slice(text.as_bytes());
    wire
}

/// Reads one masked text frame of fewer than 64 KiB; nothing where another frame comes.
fn read_text(stream: &mut TcpStream) -> Option<String> {
    let mut head = [0; 2];
    stream
        .read_exact(&mut head)
        .ok()
        .filter(|()| head[0] == 0x81)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).ok()?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    payload
        .iter_mut()
        .zip(mask.iter().cycle())
        .for_each(|(byte, mask)| *byte ^= mask);
    String::from_utf8(payload).ok()
}

/// What a server sends to a receiver for the message with this offset.
type Script = fn(offset: u64, message: Vec<u8>) -> Vec<u8>;

#[derive(Default)]
struct Room {
    offset: u64,
    receivers: Vec<TcpStream>,
}

/// One room, a thread for each connection, and a script in place of good behaviour.
fn serve(script: Script) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let room = Arc::new(Mutex::new(Room::default()));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let room = Arc::clone(&room);
            thread::spawn(move || serve_connection(stream, &room, script));
        }
    });
    port
}

fn serve_connection(mut stream: TcpStream, room: &Mutex<Room>, script: Script) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
    while let Some(text) = read_text(&mut stream) {
        let mut room = room.lock().unwrap();
        if text.contains("join_room") {
            let joined = r#"{"type":"room_joined","room":"load","payload":{"offset":0}}"#;
            stream.write_all(&text_frame(joined)).unwrap();
            room.receivers.push(stream.try_clone().unwrap());
            continue;
        }
        room.offset += 1;
        let offset = room.offset;
        let (_, payload) = text.split_once("\"payload\":").unwrap();
        let message = text_frame(&format!(
            r#"{{"type":"message","room":"load","offset":{offset},"payload":{payload}"#
        ));
        let wire = script(offset, message);
        // A receiver that was closed by the script does not take more.
        room.receivers
            .retain_mut(|receiver| receiver.write_all(&wire).is_ok());
        let sent =
            format!(r#"{{"type":"message_sent","room":"load","payload":{{"offset":{offset}}}}}"#);
        if stream.write_all(&text_frame(&sent)).is_err() {
            return;
        }
    }
}

fn fan_out(script: Script) -> Output {
    let port = serve(script);
    tidewheel_load(&format!(
        "fan-out --url ws://127.0.0.1:{port} --ledger=false --receivers 5 --rate 200 --warmup 50ms \
         --duration 250ms --grace 300ms"
    ))
}

fn assert_exit(output: &Output, code: i32, mentions: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    assert!(text.contains(mentions), "{text}");
}

#[test]
fn the_baseline_passes_its_own_audit_at_every_pace() {
    for pace in ["--in-flight 1", "--in-flight 16", "--rate 500"] {
        let output = tidewheel_load(&format!(
            "baseline --receivers 50 --threads 2 --warmup 50ms --duration 200ms {pace}"
        ));
        assert_exit(&output, 0, "passed");
    }
}

#[test]
fn an_idle_crowd_gets_the_one_message() {
    let output =
        tidewheel_load("idle --target bare-loop --connections 200 --source-addrs 3 --publish");
    assert_exit(&output, 0, "200 deliveries");
}

#[test]
fn a_faithful_server_passes() {
    assert_exit(&fan_out(|_, message| message), 0, "passed");
}

#[test]
fn a_message_left_out_fails() {
    let script: Script = |offset, message| if offset == 20 { Vec::new() } else { message };
    assert_exit(&fan_out(script), 1, "5 gaps");
}

#[test]
fn a_message_sent_twice_fails() {
    let script: Script = |offset, message| {
        if offset == 20 {
            message.repeat(2)
        } else {
            message
        }
    };
    assert_exit(&fan_out(script), 1, "5 repeated");
}

#[test]
fn a_message_announced_as_missed_passes() {
    let script: Script = |offset, message| {
        let missed = r#"{"type":"messages_missed","room":"load","payload":{"from":20,"to":20}}"#;
        if offset == 20 {
            text_frame(missed)
        } else {
            message
        }
    };
    assert_exit(&fan_out(script), 0, "5 announced as missed");
}

#[test]
fn what_never_comes_fails_and_a_close_with_a_code_explains_it() {
    let with_code: Script = |offset, message| match offset {
        0..20 => message,
        // Close frame with 4101.
        20 => vec![0x88, 2, 0x10, 0x05],
        _ => Vec::new(),
    };
    assert_exit(&fan_out(with_code), 0, "5 closed with 4101");
    let truncated: Script = |offset, message| if offset < 20 { message } else { Vec::new() };
    assert_exit(&fan_out(truncated), 1, "missing at the end");
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_its_own() {
    let output = tidewheel_load(
        "fan-out --url ws://127.0.0.1:1 --ledger=false --receivers 1 --connect-timeout 1s",
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_file_with_a_key_that_is_none_is_named_with_what_is_allowed() {
    let file = std::env::temp_dir().join(format!("tidewheel-load-{}.toml", std::process::id()));
    std::fs::write(&file, "# An experiment\nspeed = 3\n").unwrap();
    let output = tidewheel_load(&format!("run {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    let mentions = [&*file.to_string_lossy(), "\"speed\"", "connect-rate"];
    for mention in mentions {
        assert!(errors.contains(mention), "{mention}: {errors}");
    }
}

#[test]
fn the_outcome_is_written_with_every_setting_and_turn() {
    let file = std::env::temp_dir().join(format!("tidewheel-load-{}.json", std::process::id()));
    let output = tidewheel_load(&format!(
        "baseline --receivers 20 --in-flight 2 --warmup 50ms --duration 100ms --repeat 2 --json {}",
        file.display()
    ));
    assert_exit(&output, 0, "medians of 2");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let outcome: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(outcome["version"], 1);
    assert_eq!(outcome["settings"]["in-flight"], 2);
    assert_eq!(outcome["turns"].as_array().map(Vec::len), Some(2));
    assert!(outcome["turns"][1]["deliveries"].as_u64() > Some(0));
    assert!(outcome["turns"][1]["latency"]["p9999_ms"].as_f64() > Some(0.0));
}

#[test]
fn every_scenario_is_listed_with_its_first_line() {
    let output = tidewheel_load("list");
    for name in ["connect ", "fan-out ", "churn ", "soak "] {
        assert_exit(&output, 0, name);
    }
}

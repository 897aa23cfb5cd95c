//! Clients that are not rustls, where they are on the machine: OpenSSL by its own tool and by
//! Python, and curl.

use std::process::{Child, Command, Output, Stdio};
use std::sync::PoisonError;

use crate::server::{Running, STARTS};

/// Runs a program; none where it is not here.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    drop(starts);
    match child.and_then(Child::wait_with_output) {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("{program} is not here: not tested");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn curl_gets_the_page() {
    let server = Running::start(|_, _| {});
    let root = server.folder.path("first.pem");
    let url = format!("https://localhost:{}/", server.address.port());
    for version in ["1.2", "1.3"] {
        let (only, max) = (format!("--tlsv{version}"), version);
        let arguments = [
            "-sS",
            "-4",
            "--cacert",
            root.to_str().unwrap(),
            &only,
            "--tls-max",
            max,
            &url,
        ];
        let Some(output) = run("curl", &arguments) else {
            return;
        };
        assert!(
            text(&output).contains("<html"),
            "{version}: {}",
            text(&output)
        );
    }
}

#[test]
fn openssl_agrees_on_protocol_and_certificate() {
    let server = Running::start(|_, _| {});
    let (root, port) = (server.folder.path("first.pem"), server.address.port());
    let address = format!("127.0.0.1:{port}");
    for (version, told) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let root = root.to_str().unwrap();
        let arguments = [
            "s_client",
            "-connect",
            &address,
            "-servername",
            "localhost",
            "-CAfile",
            root,
            "-verify_return_error",
            "-alpn",
            "h2,http/1.1",
            version,
        ];
        let Some(output) = run("openssl", &arguments) else {
            return;
        };
        let text = text(&output);
        for part in [
            told,
            "ALPN protocol: http/1.1",
            "Verify return code: 0 (ok)",
        ] {
            assert!(text.contains(part), "{version}, {part}: {text}");
        }
        assert!(!text.contains("unexpected eof"), "{text}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let arguments = ["s_client", "-connect", &address, version];
        if let Some(output) = run("openssl", &arguments) {
            assert!(!output.status.success(), "{version}: {}", text(&output));
        }
    }
}

#[test]
fn python_echoes_a_message_of_a_megabyte() {
    let server = Running::start(|_, _| {});
    let program = r#"
import hashlib, os, socket, ssl, struct, sys, threading
context = ssl.create_default_context(cafile=sys.argv[1])
context.set_alpn_protocols(["http/1.1"])
s = context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[2])), 20), server_hostname="localhost")
assert s.selected_alpn_protocol() == "http/1.1"
s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
f = s.makefile("rb")
while f.readline() != b"\r\n": pass
message = os.urandom(1 << 20)
s.sendall(b"\x82\xff" + struct.pack(">Q", len(message)) + bytes(4) + message)
assert f.read(2) == b"\x82\x7f"
assert struct.unpack(">Q", f.read(8))[0] == len(message)
assert hashlib.sha256(f.read(len(message))).digest() == hashlib.sha256(message).digest()
print("echoed", s.version())
"#;
    let (root, port) = (
        server.folder.path("first.pem"),
        server.address.port().to_string(),
    );
    let arguments = ["-c", program, root.to_str().unwrap(), &port];
    if let Some(output) = run("python3", &arguments) {
        assert_eq!(text(&output).trim(), "echoed TLSv1.3");
    }
}

//! Any bytes as the text of one message: the parser neither panics nor lets anything through that
//! is not of the documented form, and what is answered is JSON in a whole frame.

use tidewheel::frame::Frame;
use tidewheel::protocol::ids::{is_key, is_room_name, is_user_id};
use tidewheel::protocol::json::{Parser, encode, validate};
use tidewheel::protocol::{
    ClientId, Code, Command, Epoch, Event, Malformed, MessageId, Offset, Request, Sender, UserId,
};

/// Runs one input.
///
/// # Panics
/// When one of the properties does not hold.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut parser = Parser::new();
    let first = parser.parse(text).map(|request| format!("{request:?}"));
    // The memory that the first message left behind must not show in the second.
    match parser.parse(text) {
        Ok(request) => {
            assert_eq!(first.as_ref(), Ok(&format!("{request:?}")));
            check_request(&request);
            answer(&request);
        }
        Err(malformed) => {
            assert_eq!(first.as_ref(), Err(&malformed));
            refuse(&malformed);
        }
    }
}

fn check_request(request: &Request<'_>) {
    assert!(request.command.room().is_none_or(is_room_name));
    assert!(request.correlation_id.is_none_or(is_key));
    assert!(request.message_id.is_none_or(is_key));
    match request.command {
        Command::DirectMessage { user_id, data } => {
            assert!(is_user_id(user_id));
            assert_json(data);
        }
        Command::Message { payload, .. }
        | Command::Ping {
            payload: Some(payload),
        } => {
            assert_json(payload);
        }
        _ => {}
    }
}

/// Encodes what a server would send on, and finds the payload in it again.
fn answer(request: &Request<'_>) {
    let user_id = UserId::Anonymous(ClientId(1));
    let (epoch, offset) = (Epoch(1), Offset(1));
    let message_id = request
        .message_id
        .map_or(MessageId::Generated(epoch, offset), MessageId::Given);
    let sender = Some(Sender {
        client_id: ClientId(1),
        user_id: &user_id,
    });
    let (event, sent) = match request.command {
        Command::Message { room, payload } => {
            let event = Event::Message {
                room,
                offset,
                payload,
                message_id,
                unix_ms: 0,
                sender,
            };
            (event, payload)
        }
        Command::DirectMessage {
            user_id: addressee,
            data,
        } => {
            assert_eq!(UserId::from_name(addressee).to_string(), addressee);
            (
                Event::DirectMessage {
                    data,
                    message_id,
                    unix_ms: 0,
                    sender,
                },
                data,
            )
        }
        Command::Ping { payload } => (Event::Pong { payload }, payload.unwrap_or_default()),
        _ => {
            let position = Some((epoch, offset));
            let room = request.command.room();
            (
                Event::MessageSent {
                    room,
                    position,
                    message_id,
                },
                &b""[..],
            )
        }
    };
    let body = encoded(&event, request.correlation_id);
    assert!(sent.is_empty() || body.windows(sent.len()).any(|part| part == sent));
}

fn refuse(malformed: &Malformed) {
    assert!(
        malformed.message.contains("; send "),
        "{}",
        malformed.message
    );
    assert!(malformed.message.len() < 1024, "{}", malformed.message);
    assert!(malformed.correlation_id.as_deref().is_none_or(is_key));
    assert!(malformed.room.as_deref().is_none_or(is_room_name));
    let event = Event::Error {
        code: Code::InvalidMessageFormat,
        message: &malformed.message,
        room: malformed.room.as_deref(),
    };
    encoded(&event, malformed.correlation_id.as_deref());
}

/// The body of the frame that holds `event`, whose header must fit it.
fn encoded(event: &Event<'_>, correlation_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(event, correlation_id, &mut out);
    let body = Frame::new(&out).body().to_vec();
    let announced = match out.get(1) {
        Some(126) => out[2..4]
            .iter()
            .fold(0, |len, &byte| len << 8 | usize::from(byte)),
        Some(127) => out[2..10]
            .iter()
            .fold(0, |len, &byte| len << 8 | usize::from(byte)),
        len => usize::from(len.copied().unwrap_or_default()),
    };
    assert_eq!((out[0], announced), (0x81, body.len()));
    // An event puts a payload two levels down, where one of the deepest is too deep to check.
    let depth = body
        .iter()
        .filter(|&&byte| byte == b'[' || byte == b'{')
        .count();
    if depth <= 512 {
        assert_json(&body);
    }
    body
}

fn assert_json(bytes: &[u8]) {
    let valid = std::str::from_utf8(bytes).is_ok_and(|text| validate(text).is_ok());
    assert!(valid, "{}", String::from_utf8_lossy(bytes));
}

//! Messages that the backend publishes.

use tidewheel::bus::{ApiAnswer, ApiAsk, Post};
use tidewheel::shard::POSTS_MAX;

use crate::node::Node;
use crate::{Backend, code};

fn codes(results: &[Result<tidewheel::bus::Position, tidewheel::bus::Refused>]) -> Vec<u64> {
    let told = results.iter().map(|result| match result {
        Ok(position) => position.offset,
        Err(refused) => refused.code as u64,
    });
    told.collect()
}

#[test]
fn members_get_what_the_backend_publishes_in_order_and_without_a_sender() {
    let mut backend = Backend::plain();
    let members: Vec<_> = (0..3).map(|core| backend.join(core, "ann", "r")).collect();
    let posts = [
        ("r", "1", None),
        ("r", "[2.50]", Some("two")),
        ("r", "3", None),
    ];
    assert_eq!(codes(&backend.publish(&posts)), [1, 2, 3]);
    for member in members {
        let heard = backend.node.heard(member);
        let messages = heard
            .texts
            .iter()
            .filter(|t| t.contains("\"type\":\"message\""));
        let messages: Vec<&String> = messages.collect();
        assert_eq!(messages.len(), 3);
        assert!(messages[1].contains("\"payload\":[2.50],\"metadata\""));
        assert!(messages[1].contains("\"message_id\":\"two\""));
        for (n, message) in messages.iter().enumerate() {
            assert!(
                message.contains(&format!("\"offset\":{},", n + 1)),
                "{message}"
            );
            assert!(!message.contains("user_id") && !message.contains("client_id"));
        }
    }
    let api = backend.node.metrics().api;
    assert_eq!((api.messages, api.refused.total()), (3, 0));
}

#[test]
fn a_repeat_of_the_backends_own_message_is_accepted_once() {
    let mut backend = Backend::plain();
    let ann = backend.join(0, "ann", "r");
    assert_eq!(
        codes(&backend.publish(&[("r", "1", Some("m")), ("r", "1", Some("m"))])),
        [1, 1]
    );
    // A user's message of the same id is another.
    backend.node.say(
        ann,
        r#"{"type":"message","room":"r","payload":2,"metadata":{"message_id":"m"}}"#,
    );
    assert_eq!(
        codes(&backend.publish(&[("r", "1", Some("m")), ("r", "3", None)])),
        [1, 3]
    );
    assert_eq!(backend.node.heard(ann).count("\"type\":\"message\""), 3);
}

#[test]
fn each_message_of_a_batch_is_judged_by_itself() {
    let rules = "room-names = 'explicit'
        [[rooms]]
        pattern = 'small'
        publish = 'members'
        max-message-bytes = 4
        [[rooms]]
        pattern = 'large'
        publish = 'server'";
    let mut backend =
        Backend::new(Node::new(1, |config, _| config.message_bytes_max = 10)).with_rules(rules);
    let long = "x".repeat(65);
    let posts = [
        ("small", "1234", None),
        ("small", "12345", None),
        ("large", "1234567890", None),
        ("large", "12345678901", None),
        ("other", "1", None),
        ("bad\nname", "1", None),
        ("large", "1", Some("")),
        ("large", "1", Some(&long)),
        ("large", "1", None),
    ];
    let results = backend.publish(&posts);
    assert_eq!(
        codes(&results),
        [1, 4005, 1, 4005, 4007, 4006, 4006, 4006, 2]
    );
    let api = backend.node.metrics().api;
    assert_eq!((api.messages, api.refused.total()), (3, 6));
    assert_eq!(api.refused.of(4005), 2);
}

#[test]
fn a_node_that_has_as_many_rooms_as_it_may_makes_no_more_for_the_backend() {
    let mut backend = Backend::new(Node::new(1, |config, _| config.rooms_max = 1));
    let posts = [("a", "1", None), ("b", "1", None), ("a", "2", None)];
    let results = backend.publish(&posts);
    assert_eq!(codes(&results), [1, 4100, 2]);
    let message = &results[1].as_ref().unwrap_err().message;
    assert!(message.contains("--max-rooms"), "{message}");
}

#[test]
fn what_is_too_much_or_elsewhere_is_refused() {
    let mut backend = Backend::plain();
    let room = backend.room("r");
    let post = Post {
        room: room.clone(),
        payload: b"1".to_vec().into(),
        message_id: None,
    };
    let home = backend.home_of(&room);
    let many = ApiAsk::Publish(vec![post.clone(); POSTS_MAX + 1]);
    assert_eq!(code(backend.ask(home, many)), 4006);
    match backend.ask((home + 1) % 3, ApiAsk::Publish(vec![post.clone()])) {
        ApiAnswer::Published(results) => assert_eq!(codes(&results), [4000]),
        other => panic!("{other:?}"),
    }
    match backend.ask(home, ApiAsk::Publish(Vec::new())) {
        ApiAnswer::Published(results) => assert_eq!(results, []),
        other => panic!("{other:?}"),
    }
    let most = ApiAsk::Publish(vec![post; POSTS_MAX]);
    assert!(
        matches!(backend.ask(home, most), ApiAnswer::Published(results) if results.len() == POSTS_MAX)
    );
}

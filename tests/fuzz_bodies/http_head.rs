//! A request, whole and trickling: the same verdict, and everything that is asked of a head.

use tidewheel::codec::http::{
    HeadFault, HeadLimits, HeadReader, decode_component, parse_head, query_value, websocket_upgrade,
};

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 2048,
    headers_max: 16,
};

/// Reads `data` as the start of a connection.
pub fn run(data: &[u8]) {
    let whole = verdict(parse_head(data, &LIMITS).map(|head| head.map(|(_, bytes)| bytes)));
    for chunk in [1, 7] {
        let mut reader = HeadReader::default();
        let ends = (0..data.len()).step_by(chunk).chain([data.len()]);
        let trickled = ends
            .map(|end| reader.read(&data[..end], &LIMITS))
            .find_map(|result| {
                let result = result.map(|head| head.map(|(_, bytes)| bytes));
                (!matches!(result, Ok(None))).then_some(result)
            });
        assert_eq!(
            verdict(trickled.unwrap_or(Ok(None))),
            whole,
            "chunks of {chunk}"
        );
    }
    let Ok(Some((head, bytes))) = parse_head(data, &LIMITS) else {
        return;
    };
    assert!(bytes <= data.len() && bytes <= LIMITS.bytes_max);
    assert!(data[..bytes].ends_with(b"\r\n\r\n"));
    assert!(head.path.starts_with('/'));
    for segment in head.path.split('/') {
        let _ = decode_component(segment);
    }
    let _ = query_value(head.query.unwrap_or(""), "user_id");
    if let Ok(upgrade) = websocket_upgrade(&head) {
        assert!(head.wants_upgrade() && head.is_http_11 && head.method == "GET");
        assert_eq!((upgrade.key.len(), head.body_bytes), (24, 0));
    }
}

/// Checks that a fault has a status of an error.
fn verdict(result: Result<Option<usize>, HeadFault>) -> Result<Option<usize>, HeadFault> {
    if let Err(fault) = result {
        assert!((400..600).contains(&fault.status()));
    }
    result
}

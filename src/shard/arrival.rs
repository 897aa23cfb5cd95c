//! How connections begin: accepted, an HTTP head, an upgrade or an answer.

use std::time::Duration;

use crate::codec::http::{HeadFault, HeadLimits, Response, encode_response, parse_head};
use crate::codec::websocket::encode_upgrade;
use crate::gate::{Entry, Refusal, Route, route};
use crate::metrics::Reject;
use crate::protocol::{ClientId, Event};
use crate::session::Class;
use crate::shard::authentication::Arrival;
use crate::shard::connection::{Connection, Held, Phase, Timer};
use crate::shard::memory::held_bytes;
use crate::shard::timers::beat_from;
use crate::shard::{Shard, mix};
use crate::time::Now;

/// Header fields of an HTTP head at most.
const HEADERS_MAX: usize = 100;

/// What the demo page may do: its own inline code, and nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// What a complete head leads to, owning what it holds.
enum Decision {
    Answer {
        response: Vec<u8>,
        reject: Option<Reject>,
    },
    Native {
        response: Vec<u8>,
        arrival: Arrival,
    },
    Echo {
        response: Vec<u8>,
    },
}

impl Shard {
    /// A socket was accepted: its index from now on.
    pub fn handle_accept(&mut self, now: Now) -> u32 {
        self.set_now(now);
        let client_id = self.name_client();
        let place = self.connections.next_index() as usize;
        if self.generations.len() <= place {
            self.generations.resize(place + 1, 0);
        }
        let generation = self.generations.get(place).copied().unwrap_or_default();
        let mut connection = Connection::new(generation, client_id, self.now.mono);
        let due = self.now.mono + self.config.handshake_timeout;
        connection.deadline = Some(self.wheel.insert(due, Timer::Handshake(place as u32)));
        let index = self.connections.insert(connection);
        self.metrics.connections.accepted += 1;
        let (dialect, state) = super::gauge(Phase::Head);
        self.metrics.connections.enter(dialect, state);
        index
    }

    /// A socket was accepted that there is no room for: it is told so.
    pub fn handle_refused(&mut self, now: Now, retry_after: Duration) -> u32 {
        let index = self.handle_accept(now);
        self.metrics.connections.rejected.count(Reject::Capacity);
        self.begin_close_with(index, 1000, &Shard::refusal(retry_after));
        index
    }

    /// What a peer is told that there is no room for.
    pub fn refusal(retry_after: Duration) -> Vec<u8> {
        let why = b"this server has as many connections as it may have; try again later\n";
        Self::refusal_because(retry_after, why)
    }

    /// What a peer is told that there is no memory for.
    pub fn refusal_for_memory(retry_after: Duration) -> Vec<u8> {
        let why = b"this server has no memory left for more connections; try again later\n";
        Self::refusal_because(retry_after, why)
    }

    fn refusal_because(retry_after: Duration, body: &[u8]) -> Vec<u8> {
        let seconds = retry_after.as_secs_f64().ceil().to_string();
        let refusal = Response {
            status: 503,
            content_type: "text/plain; charset=utf-8",
            headers: &[("Retry-After", &seconds)],
            body,
        };
        let mut response = Vec::new();
        encode_response(&refusal, false, &mut response);
        response
    }

    /// Ids that nobody can guess the next of by looking at one, and that never repeat on a node.
    fn name_client(&mut self) -> ClientId {
        let number =
            self.clients_named * u64::from(self.config.cores) + u64::from(self.config.core.0);
        self.clients_named += 1;
        ClientId(mix(self.config.seed.wrapping_add(number)))
    }

    pub(super) fn take_head(&mut self, index: u32, bytes: &[u8]) -> usize {
        let limits = HeadLimits {
            bytes_max: self.config.head_bytes_max,
            headers_max: HEADERS_MAX,
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return bytes.len();
        };
        let mut held = connection.take_held();
        self.memory.note_input(held_bytes(held.as_deref()), 0);
        let before = held.as_ref().map_or(0, |held| held.head.len());
        let read = match &mut held {
            // Nearly every head comes in one piece, and is read where it lies.
            None => parse_head(bytes, &limits),
            Some(held) => {
                held.head.extend_from_slice(bytes);
                held.reader.read(&held.head, &limits)
            }
        };
        let (decision, taken) = match read {
            Ok(Some((head, len))) => {
                let decision = match self.meet_client(index, &head) {
                    Ok(()) => {
                        let route = route(&head, self.config.echo, &self.config.policy);
                        decide(route, self.config.page)
                    }
                    Err(response) => Decision::Answer {
                        response,
                        reject: None,
                    },
                };
                (decision, len.saturating_sub(before))
            }
            Ok(None) => {
                let held = held.unwrap_or_else(|| Box::new(Held::of_head(bytes)));
                self.memory.note_input(0, held_bytes(Some(&held)));
                connection.put_held(held);
                return bytes.len();
            }
            Err(fault) => (refuse_head(fault), bytes.len()),
        };
        self.act_on(index, decision);
        taken
    }

    fn act_on(&mut self, index: u32, decision: Decision) {
        match decision {
            Decision::Answer { response, reject } => {
                if let Some(reject) = reject {
                    self.metrics.connections.rejected.count(reject);
                }
                self.begin_close_with(index, 1000, &response);
            }
            Decision::Echo { response } => {
                self.open(index, Phase::Echo, &response);
            }
            Decision::Native { response, arrival } => {
                self.open(index, Phase::Awaiting, &response);
                self.identify(index, arrival);
            }
        }
    }

    fn open(&mut self, index: u32, phase: Phase, response: &[u8]) {
        self.set_phase(index, phase);
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let Some(timer) = connection.deadline.take() {
            self.wheel.cancel(timer);
        }
        connection
            .queue_from(&mut self.queues)
            .push(response, 0, Class::Raw, now);
        self.queue_connection(index);
    }

    /// Tells a connection that it may be used.
    pub(super) fn establish(&mut self, index: u32) {
        let interval = self.config.heartbeat_interval;
        let jitter = self.rng.f64();
        let due = self.now.mono + interval.mul_f64(jitter);
        let timer = self.wheel.insert(beat_from(due), Timer::Heartbeat(index));
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.heartbeat = Some(timer);
        let (client_id, user) = (connection.client_id, connection.user.clone());
        self.arrive(index);
        let event = Event::ConnectionEstablished {
            client_id,
            user_id: &user,
            server_time_unix_ms: self.now.unix_ms,
            heartbeat_interval_ms: interval.as_millis() as u64,
            max_message_bytes: self.config.message_bytes_max as u64,
        };
        self.answer(index, &event, None);
    }
}

fn decide(route: Route<'_>, page: &[u8]) -> Decision {
    let mut response = Vec::new();
    match route {
        Route::Page { head_only } => {
            let headers = &[
                ("Content-Security-Policy", PAGE_POLICY),
                ("Referrer-Policy", "no-referrer"),
            ];
            let content_type = "text/html; charset=utf-8";
            let page = Response {
                status: 200,
                content_type,
                headers,
                body: page,
            };
            encode_response(&page, head_only, &mut response);
            Decision::Answer {
                response,
                reject: None,
            }
        }
        Route::Refused(refusal) => refuse(&refusal),
        Route::Echo { key } => {
            encode_upgrade(key, None, &mut response);
            Decision::Echo { response }
        }
        Route::Native(Entry {
            key,
            subprotocol,
            room,
            user,
            credential,
            is_foreign,
            passed,
            has_fields,
        }) => {
            encode_upgrade(key, subprotocol, &mut response);
            let arrival = Arrival {
                room,
                user,
                credential,
                is_foreign,
                passed,
                has_fields,
            };
            Decision::Native { response, arrival }
        }
    }
}

fn refuse(refusal: &Refusal) -> Decision {
    let mut body = refusal.message.clone().into_bytes();
    body.push(b'\n');
    let response = Response {
        status: refusal.status,
        content_type: "text/plain; charset=utf-8",
        headers: refusal.headers,
        body: &body,
    };
    let mut bytes = Vec::new();
    encode_response(&response, false, &mut bytes);
    Decision::Answer {
        response: bytes,
        reject: Some(refusal.reason),
    }
}

fn refuse_head(fault: HeadFault) -> Decision {
    let message = fault.to_string();
    refuse(&Refusal {
        status: fault.status(),
        headers: &[],
        message,
        reason: Reject::BadRequest,
    })
}

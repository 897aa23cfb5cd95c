//! How connections come in: those that are taken, and those that are told that there is no place.

use std::sync::atomic::Ordering;

use mio::Token;

use super::sockets::Preface;
use super::{ACCEPT_WAIT, Reactor, Stream, Tuning};
use crate::address::PeerAddress;
use crate::metrics::Reject;
use crate::shard::Shard;
use crate::time::Now;

impl Reactor {
    /// Accepts what is waiting, up to the bound of a turn. Comes after `act`, so that no index is
    /// given anew before its old socket is closed.
    pub(super) fn accept(&mut self, now: Now) -> bool {
        if self.accept_at.is_none_or(|at| at > now.mono) {
            return false;
        }
        for _ in 0..self.tuning.accept_batch {
            let Some(listener) = &self.listener else {
                return false;
            };
            match listener.accept() {
                Ok(Some((stream, address))) => self.admit(stream, address, now),
                Ok(None) => {
                    self.accept_at = None;
                    return false;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection; trying again shortly");
                    self.shard
                        .metrics_mut()
                        .connections
                        .rejected
                        .count(Reject::Io);
                    self.accept_at = Some(now.mono + ACCEPT_WAIT);
                    return false;
                }
            }
        }
        true
    }

    fn admit(&mut self, mut stream: Stream, address: PeerAddress, now: Now) {
        if self.tuning.proxy_headers && !self.shard.trusts(address) {
            // Whoever may write such a header may say that it is anybody.
            return self.count_rejected(Reject::Proxy);
        }
        let open = self.sockets.len();
        let Tuning {
            connections_max,
            refusals_max,
            retry_after,
            ..
        } = self.tuning;
        if open >= connections_max + refusals_max {
            // No descriptor is left to end this in an orderly way: it is said, and not waited for.
            if self.tls.is_none() {
                stream.say_last(&Shard::refusal(retry_after), &mut self.buffer);
            }
            self.shard
                .metrics_mut()
                .connections
                .rejected
                .count(Reject::Capacity);
            return;
        }
        if let Some(config) = &self.tls {
            stream = match self.sockets.secure(stream, config) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::error!(%error, "TLS could not begin on a connection");
                    let rejected = &mut self.shard.metrics_mut().connections.rejected;
                    return rejected.count(Reject::Tls);
                }
            };
        }
        let everywhere = self.open_everywhere.load(Ordering::Relaxed);
        let is_full =
            open >= connections_max || everywhere >= self.tuning.connections_everywhere_max;
        let index = if is_full {
            self.shard.handle_refused(now, retry_after)
        } else if self.shard.refuses_newcomers() {
            self.shard.handle_refused_for_memory(now, retry_after)
        } else {
            self.shard.handle_accept(now)
        };
        let token = Token(index as usize);
        if let Err(error) = self
            .sockets
            .insert(index, stream, self.poll.registry(), token)
        {
            tracing::warn!(%error, "the poller did not take a connection");
            self.shard
                .metrics_mut()
                .connections
                .rejected
                .count(Reject::Io);
            self.shard.handle_end(now, index);
            self.act(now);
            return;
        }
        self.open_everywhere.fetch_add(1, Ordering::Relaxed);
        if self.tuning.proxy_headers {
            self.sockets.await_header(index);
        } else if !is_full {
            self.shard.handle_address(now, index, address);
            // It may be gone already, and its index may not be given anew before its socket is closed.
            self.act(now);
        }
    }

    /// Looks for the PROXY header of a connection. Says whether to go on with what follows it.
    pub(super) fn take_header(&mut self, index: u32, now: Now) -> bool {
        match self.sockets.take_header(index) {
            Preface::Awaited => false,
            Preface::Read(source) => {
                if let Some(address) = source {
                    self.shard.handle_address(now, index, address);
                }
                true
            }
            Preface::Broken(fault) => {
                if fault.is_some() {
                    self.count_rejected(Reject::Proxy);
                }
                self.shard.handle_end(now, index);
                false
            }
        }
    }

    fn count_rejected(&mut self, why: Reject) {
        let connections = &mut self.shard.metrics_mut().connections;
        connections.rejected.count(why);
    }
}

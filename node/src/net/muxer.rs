//! libp2p's view of one of our QUIC connections: a muxer of its bidirectional streams.
//!
//! Tensors ride on the unidirectional streams of the same connection, which libp2p never sees.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;

use super::transport::Connections;

/// How long a finished stream waits for the other side's consent to its protocol.
const CONSENT: Duration = Duration::from_secs(10);
/// Bytes of a consent: the names of two protocols.
const CONSENT_BYTES: usize = 1024;

type Both = Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>;

/// libp2p's view of a connection: its bidirectional streams.
pub(super) struct Muxer {
    connection: quinn::Connection,
    peer: PeerId,
    connections: Connections,
    inbound: Option<BoxFuture<'static, Both>>,
    outbound: Option<BoxFuture<'static, Both>>,
    closing: Option<BoxFuture<'static, ()>>,
}

impl Muxer {
    /// Takes over a connection that is registered already; dropping the muxer closes it and takes it off the list.
    pub(super) fn new(
        connection: quinn::Connection,
        peer: PeerId,
        connections: Connections,
    ) -> Self {
        Self { connection, peer, connections, inbound: None, outbound: None, closing: None }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // Denied or dropped by libp2p: the data plane's clone must not keep it alive.
        self.connections.remove(&self.peer, self.connection.stable_id());
        self.connection.close(0u32.into(), b"");
    }
}

impl StreamMuxer for Muxer {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Stream>> {
        let connection = self.connection.clone();
        let accepting =
            self.inbound.get_or_insert_with(|| async move { connection.accept_bi().await }.boxed());
        let both = ready!(accepting.poll_unpin(context))?;
        self.inbound = None;
        Poll::Ready(Ok(Stream::new(both)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Stream>> {
        let connection = self.connection.clone();
        let opening =
            self.outbound.get_or_insert_with(|| async move { connection.open_bi().await }.boxed());
        let (send, recv) = ready!(opening.poll_unpin(context))?;
        self.outbound = None;
        // Control goes before bulk whenever the congestion window is the limit.
        send.set_priority(1).unwrap_or_default();
        Poll::Ready(Ok(Stream::new((send, recv))))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.clone();
        let closing = self.closing.get_or_insert_with(|| {
            connection.close(0u32.into(), b"");
            async move {
                connection.closed().await;
            }
            .boxed()
        });
        closing.poll_unpin(context).map(Ok)
    }
}

/// A bidirectional stream.
pub(super) struct Stream {
    send: quinn::SendStream,
    /// None only once it is dropped.
    recv: Option<quinn::RecvStream>,
    is_finished: bool,
    has_ended: bool,
}

impl Stream {
    fn new((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send, recv: Some(recv), is_finished: false, has_ended: false }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A protocol's name goes with the first bytes, so a sender that awaits no answer is done before the other side has
        // agreed to the protocol. A stream that is stopped then is refused there, and what was sent is lost.
        let (Some(mut recv), true) = (self.recv.take(), self.is_finished && !self.has_ended) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Whatever it says beyond its consent, nobody waits for.
                drop(tokio::time::timeout(CONSENT, recv.read_to_end(CONSENT_BYTES)).await);
            });
        }
    }
}

impl futures::AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(Ok(0));
        };
        let read = ready!(recv.poll_read(context, buffer));
        self.has_ended |= matches!(read, Ok(0) if !buffer.is_empty()) || read.is_err();
        Poll::Ready(read.map_err(Into::into))
    }
}

impl futures::AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(context, buffer).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that is closed already is closed.
        self.send.finish().unwrap_or_default();
        self.is_finished = true;
        Poll::Ready(Ok(()))
    }
}

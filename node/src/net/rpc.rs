//! Control frames and, for peers without QUIC, tensor chunks as requests with tiny answers. Lengths are checked before
//! anything is allocated.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::request_response;

use super::FRAME_MAX;
use super::fallback::Offered;

/// Bytes of one tensor chunk on the fallback path.
pub(super) const CHUNK: usize = 1 << 20;
/// First bytes read at once; the buffer grows as bytes come, not as a stranger says.
const FIRST_READ: usize = 64 << 10;

/// A one-way message; the answer is a single byte.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A control frame.
    Frame(Vec<u8>),
    /// May I send this bundle? Answered yes or no.
    Offer(Offered),
    /// The next bytes of an offered bundle. The answer to the last chunk says whether the whole was right.
    Chunk { nonce: u64, bytes: Vec<u8> },
    /// Bytes that only measure the link; none of them is kept.
    Probe(Vec<u8>),
}

impl Request {
    /// Returns about how many bytes it takes on the wire.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Frame(bytes) | Self::Chunk { bytes, .. } | Self::Probe(bytes) => bytes.len(),
            Self::Offer(offered) => offered.header.len(),
        }
    }
}

/// Reads and writes requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codec;

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn read_u64(io: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let mut bytes = [0; 8];
    io.read_exact(&mut bytes).await?;
    Ok(u64::from_le_bytes(bytes))
}

async fn read_length(io: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<usize> {
    let length = usize::try_from(read_u64(io).await?);
    length.ok().filter(|l| *l <= most).ok_or_else(|| bad("a frame is too long"))
}

/// Reads bytes and keeps none.
async fn swallow(io: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<()> {
    let length = read_length(io, most).await? as u64;
    let read = futures::io::copy(io.take(length), &mut futures::io::sink()).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

async fn read_bytes(io: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let length = read_length(io, most).await?;
    let mut bytes = Vec::with_capacity(length.min(FIRST_READ));
    let read = io.take(length as u64).read_to_end(&mut bytes).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write_bytes(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    io.write_all(&(bytes.len() as u64).to_le_bytes()).await?;
    io.write_all(bytes).await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = bool;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut kind = [0];
        io.read_exact(&mut kind).await?;
        match kind[0] {
            0 => Ok(Request::Frame(read_bytes(io, FRAME_MAX).await?)),
            1 => {
                let nonce = read_u64(io).await?;
                let length = read_u64(io).await?;
                let mut hash = [0; 32];
                io.read_exact(&mut hash).await?;
                let header = read_bytes(io, super::HEADER_MAX).await?;
                Ok(Request::Offer(Offered { nonce, length, hash, header }))
            }
            2 => {
                let nonce = read_u64(io).await?;
                Ok(Request::Chunk { nonce, bytes: read_bytes(io, CHUNK).await? })
            }
            3 => {
                swallow(io, CHUNK).await?;
                Ok(Request::Probe(Vec::new()))
            }
            _ => Err(bad("an unknown kind of request")),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<bool>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut answer = [0];
        io.read_exact(&mut answer).await?;
        Ok(answer[0] == 1)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Request::Frame(bytes) => {
                io.write_all(&[0]).await?;
                write_bytes(io, &bytes).await?;
            }
            Request::Offer(Offered { nonce, length, hash, header }) => {
                io.write_all(&[1]).await?;
                io.write_all(&nonce.to_le_bytes()).await?;
                io.write_all(&length.to_le_bytes()).await?;
                io.write_all(&hash).await?;
                write_bytes(io, &header).await?;
            }
            Request::Chunk { nonce, bytes } => {
                io.write_all(&[2]).await?;
                io.write_all(&nonce.to_le_bytes()).await?;
                write_bytes(io, &bytes).await?;
            }
            Request::Probe(bytes) => {
                io.write_all(&[3]).await?;
                write_bytes(io, &bytes).await?;
            }
        }
        io.close().await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: bool,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&[u8::from(response)]).await?;
        io.close().await
    }
}

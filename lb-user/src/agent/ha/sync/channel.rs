//! A connection between the nodes, over which each knows that it speaks with the
//! other, and nobody else reads or changes what they say: the Noise protocol
//! framework, pattern NNpsk0 (revision 34, section 9.4), with a key derived from
//! the pair's.
//!
//! Both first send the magic `lbFS` and the version of what they speak, so that
//! nodes of different versions can tell. Then every message of Noise follows its
//! length in two bytes (big-endian).

use std::{io, sync::Arc};

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::message::{MOST_BYTES, Message};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const MAGIC: &[u8; 4] = b"lbFS";
const VERSION: u8 = 1;
/// Bytes that Noise adds to a message.
const TAG: usize = 16;
/// Bytes of a handshake's messages: a public key and a tag.
const GREETING: usize = 32 + TAG;

/// Why nodes cannot speak, or not any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Who is there is no node.
    #[error("it does not speak with balancers")]
    Foreign,
    /// Of another version of lb.
    #[error(
        "it speaks version {0} of flow sync, and this node version {VERSION}: both must be of \
         one version of lb"
    )]
    Version(u8),
    /// It is not the peer, or what it said was changed.
    #[error("it has another key, or is of another pair")]
    Key,
    /// It is the peer, and yet not understood.
    #[error("it said what cannot be understood")]
    Malformed,
    /// What was told so far was not understood.
    #[error("it is to tell everything again")]
    Anew,
    /// The peer does not want to listen.
    #[error("it refuses: {0}")]
    Refused(String),
}

impl Error {
    /// It took too long.
    pub(super) fn late() -> Self {
        Self::Io(io::ErrorKind::TimedOut.into())
    }

    /// Whether the other end went: who calls by two paths hangs up on one of them.
    pub(super) fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let Self::Io(error) = self else { return false };
        matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
    }
}

/// What can be said.
pub(super) struct Outgoing {
    noise: Arc<StatelessTransportState>,
    stream: OwnedWriteHalf,
    nonce: u64,
}

/// What can be heard.
pub(super) struct Incoming {
    noise: Arc<StatelessTransportState>,
    stream: OwnedReadHalf,
    nonce: u64,
    /// What came and is not read yet.
    buffer: Vec<u8>,
}

/// Begins to speak with who was called, by a key that it knows.
///
/// # Errors
/// It does not know it, or is no node of this version.
pub(super) async fn call(
    mut stream: TcpStream,
    key: &[u8; 32],
) -> Result<(Outgoing, Incoming), Error> {
    introduce(&mut stream).await?;
    let mut noise = handshake(key, true)?;
    let mut greeting = [0; GREETING];
    noise.write_message(&[], &mut greeting).map_err(|_| Error::Key)?;
    stream.write_all(&greeting).await?;
    stream.read_exact(&mut greeting).await?;
    noise.read_message(&greeting, &mut []).map_err(|_| Error::Key)?;
    begin(noise, stream)
}

/// Begins to speak with who calls, by that one of the keys which it knows.
///
/// # Errors
/// It knows none, or is no node of this version.
pub(super) async fn answer(
    mut stream: TcpStream,
    keys: &[[u8; 32]],
) -> Result<(Outgoing, Incoming), Error> {
    introduce(&mut stream).await?;
    let mut greeting = [0; GREETING];
    stream.read_exact(&mut greeting).await?;
    let understand = |key| {
        let mut noise = handshake(key, false).ok()?;
        noise.read_message(&greeting, &mut []).is_ok().then_some(noise)
    };
    let mut noise = keys.iter().find_map(understand).ok_or(Error::Key)?;
    noise.write_message(&[], &mut greeting).map_err(|_| Error::Key)?;
    stream.write_all(&greeting).await?;
    begin(noise, stream)
}

/// Says what is spoken here, and makes sure that it is spoken there.
async fn introduce(stream: &mut TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    stream.write_all(MAGIC).await?;
    stream.write_all(&[VERSION]).await?;
    let mut preamble = [0; 5];
    stream.read_exact(&mut preamble).await?;
    match preamble.strip_prefix(MAGIC) {
        Some([VERSION]) => Ok(()),
        Some([version]) => Err(Error::Version(*version)),
        _ => Err(Error::Foreign),
    }
}

fn begin(noise: HandshakeState, stream: TcpStream) -> Result<(Outgoing, Incoming), Error> {
    let noise = Arc::new(noise.into_stateless_transport_mode().map_err(|_| Error::Key)?);
    let (read, write) = stream.into_split();
    Ok((
        Outgoing { noise: Arc::clone(&noise), stream: write, nonce: 0 },
        Incoming { noise, stream: read, nonce: 0, buffer: Vec::with_capacity(2 * MOST_BYTES) },
    ))
}

fn handshake(key: &[u8; 32], calls: bool) -> Result<HandshakeState, Error> {
    let params = PATTERN.parse().map_err(|_| Error::Key)?;
    let builder = Builder::new(params).prologue(&[VERSION]).and_then(|b| b.psk(0, key));
    let built =
        builder.and_then(
            |builder| {
                if calls { builder.build_initiator() } else { builder.build_responder() }
            },
        );
    built.map_err(|_| Error::Key)
}

impl Outgoing {
    /// Says something.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn say(&mut self, message: &Message) -> Result<(), Error> {
        let plain = message.encode();
        let mut bytes = vec![0; 2 + plain.len() + TAG];
        let sealed = self.noise.write_message(self.nonce, &plain, &mut bytes[2..]);
        let length = sealed.map_err(|_| Error::Malformed)?;
        self.nonce += 1;
        bytes[..2].copy_from_slice(&(length as u16).to_be_bytes());
        Ok(self.stream.write_all(&bytes[..2 + length]).await?)
    }
}

impl Incoming {
    /// What is said next. Nothing is lost if this is not waited for to its end.
    ///
    /// # Errors
    /// The connection is broken, or somebody else speaks.
    pub(super) async fn hear(&mut self) -> Result<Message, Error> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length > MOST_BYTES + TAG {
                    return Err(Error::Malformed);
                }
                if rest.len() >= length {
                    let message = self.read(length);
                    self.buffer.drain(..2 + length);
                    return message;
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// The message in front of the buffer.
    fn read(&mut self, length: usize) -> Result<Message, Error> {
        let mut plain = vec![0; length];
        let sealed = &self.buffer[2..2 + length];
        let opened = self.noise.read_message(self.nonce, sealed, &mut plain);
        let length = opened.map_err(|_| Error::Key)?;
        self.nonce += 1;
        Message::decode(&plain[..length]).ok_or(Error::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    async fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let calls = TcpStream::connect(listener.local_addr().unwrap());
        let (calls, called) = tokio::join!(calls, listener.accept());
        (calls.unwrap(), called.unwrap().0)
    }

    type Opened = Result<(Outgoing, Incoming), Error>;

    /// Of who calls with the first key, and who answers by all others.
    async fn channel(keys: &[[u8; 32]]) -> (Opened, Opened) {
        let (calls, called) = streams().await;
        tokio::join!(call(calls, &keys[0]), answer(called, &keys[1..]))
    }

    #[tokio::test]
    async fn what_is_said_is_heard_in_both_directions() {
        let (calls, called) = channel(&[[7; 32]; 2]).await;
        let ((mut say_a, mut hear_a), (mut say_b, mut hear_b)) = (calls.unwrap(), called.unwrap());
        for sequence in 0..100 {
            say_a.say(&Message::Told { sequence, groups: vec![1] }).await.unwrap();
            say_b.say(&Message::Heard { sequence, whole: true }).await.unwrap();
        }
        for sequence in 0..100 {
            assert_eq!(hear_b.hear().await.unwrap(), Message::Told { sequence, groups: vec![1] });
            assert_eq!(hear_a.hear().await.unwrap(), Message::Heard { sequence, whole: true });
        }
    }

    #[tokio::test]
    async fn who_has_another_key_is_not_listened_to() {
        for others in [&[[8; 32]][..], &[[8; 32], [9; 32]]] {
            let (calls, called) = channel(&[&[[7; 32]], others].concat()).await;
            assert!(calls.is_err() && matches!(called, Err(Error::Key)));
        }
    }

    #[tokio::test]
    async fn who_calls_with_any_of_the_keys_is_understood() {
        for key in [[7; 32], [8; 32]] {
            let (calls, called) = channel(&[key, [7; 32], [8; 32]]).await;
            let ((mut say, _), (_, mut hear)) = (calls.unwrap(), called.unwrap());
            say.say(&Message::Begin).await.unwrap();
            assert_eq!(hear.hear().await.unwrap(), Message::Begin);
        }
    }

    #[tokio::test]
    async fn another_version_is_told_from_a_stranger() {
        let cases = [
            (b"lbFS\x09", "it speaks version 9 of flow sync, and this node version 1"),
            (b"HTTP/", "it does not speak with balancers"),
        ];
        for (said, expected) in cases {
            let (mut calls, called) = streams().await;
            calls.write_all(said).await.unwrap();
            let refused = answer(called, &[[7; 32]]).await.err().unwrap().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_was_changed_or_repeated_on_its_way_is_refused() {
        for repeated in [false, true] {
            let (near, far) = streams().await;
            let (from, to) = streams().await;
            // Somebody between them.
            let (mut far, mut from) = (far, from);
            let between = tokio::spawn(async move {
                let greetings = async |reader: &mut TcpStream, writer: &mut TcpStream, length| {
                    let mut bytes = vec![0; length];
                    reader.read_exact(&mut bytes).await.unwrap();
                    writer.write_all(&bytes).await.unwrap();
                };
                greetings(&mut far, &mut from, 5).await;
                greetings(&mut from, &mut far, 5).await;
                greetings(&mut far, &mut from, GREETING).await;
                greetings(&mut from, &mut far, GREETING).await;
                let mut said = vec![0; 2 + 17 + TAG];
                far.read_exact(&mut said).await.unwrap();
                if repeated {
                    from.write_all(&said).await.unwrap();
                } else {
                    said[5] ^= 1;
                }
                from.write_all(&said).await.unwrap();
                (far, from)
            });
            let (calls, called) = tokio::join!(call(near, &[7; 32]), answer(to, &[[7; 32]]));
            let ((mut say, _), (_, mut hear)) = (calls.unwrap(), called.unwrap());
            say.say(&Message::Told { sequence: 1, groups: vec![1] }).await.unwrap();
            if repeated {
                hear.hear().await.unwrap();
            }
            assert!(matches!(hear.hear().await, Err(Error::Key)));
            drop(between.await);
        }
    }
}

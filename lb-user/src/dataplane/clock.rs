//! The data plane's clock: what packets take for now.

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::maps;

use super::pins::PinDir;

/// Bytes of the frame that the program is run with: an Ethernet header at least.
const FRAME: usize = 64;

/// [`maps::CLOCK_PROGRAM`]. Any thread may ask it.
pub struct Clock(Xdp);

/// One moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// See [`lb_common::flow::second`].
    pub second: u16,
    /// The kernel's `jiffies64`.
    pub tick: u64,
}

impl Clock {
    /// Opens the pinned program.
    ///
    /// # Errors
    /// There is none, or the kernel refused.
    pub(super) fn open(pins: &PinDir) -> Result<Self, ProgramError> {
        let program = Xdp::from_pin(pins.pin(maps::CLOCK_PROGRAM), XdpAttachType::Interface);
        program.map(Self)
    }

    /// What it is now.
    ///
    /// # Errors
    /// The kernel refused to run the program.
    pub fn now(&self) -> Result<Now, ProgramError> {
        let mut frame = [0; FRAME];
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME]),
            data_out: Some(&mut frame),
            ..TestRunOptions::new()
        };
        let run = self.0.test_run(options)?;
        let (words, _) = frame.as_chunks();
        Ok(Now { second: run.return_value as u16, tick: u64::from_ne_bytes(words[0]) })
    }
}

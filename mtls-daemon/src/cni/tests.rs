//! Both ends of the socket, and the plug-in's place in folders as runtimes
//! have them.

mod conflist;
mod install;
mod socket;

// Package balance decides who gets a request, and whether: it divides requests among weighted backends and among
// endpoints by their load, sets endpoints aside that fail, and limits rates.
//
// There is neither clock nor random source in it: times are given as nanoseconds since some beginning, always greater
// than zero, and randomness as random bits. Everything is safe for concurrent use, and nothing that is asked for every
// request allocates or waits.
package balance

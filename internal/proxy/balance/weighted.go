package balance

import "sync"

// Weighted is a smooth weighted round robin: over any whole cycle (as many picks as the sum of the weights) every item
// is picked exactly as often as its weight says, spread as evenly as that allows. It is safe for concurrent use.
type Weighted struct {
	weights []int64
	total   int64

	mu      sync.Mutex
	current []int64 // guarded by mu; sums to 0 between picks
}

// NewWeighted returns a Weighted over len(weights) items. Weights that are zero get nothing.
func NewWeighted(weights []uint32) *Weighted {
	w := &Weighted{weights: make([]int64, len(weights)), current: make([]int64, len(weights))}
	for i, n := range weights {
		w.weights[i] = int64(n)
		w.total += int64(n)
	}
	// Only proportions count, and a cycle in lowest terms is a whole cycle sooner.
	if d := gcd(w.weights); d > 1 {
		w.total /= d
		for i := range w.weights {
			w.weights[i] /= d
		}
	}
	return w
}

// Next returns the index of the next item, -1 if there is none with a weight.
func (w *Weighted) Next() int {
	if w.total == 0 {
		return -1
	}
	if len(w.weights) == 1 {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	best := -1
	for i, weight := range w.weights {
		if weight == 0 {
			continue
		}
		w.current[i] += weight
		if best < 0 || w.current[i] > w.current[best] {
			best = i
		}
	}
	w.current[best] -= w.total
	return best
}

func gcd(numbers []int64) int64 {
	var d int64
	for _, n := range numbers {
		for n != 0 {
			d, n = n, d%n
		}
	}
	return d
}

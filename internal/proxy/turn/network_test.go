package turn_test

import (
	"io"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/turn"
)

// A file that has something to say is heard between rounds, however many others want to go on.
func TestTheNetworkIsAskedBetweenRounds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is on Linux only")
	}
	procs := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(procs)
	there, back := newPipe(t), newPipe(t)
	go func() { _, _ = io.Copy(back.w, there.r) }()
	r := turn.New(turn.Config{CPUs: 1})
	defer r.Close()
	r.Queue().Begin() // so that the other one isn't alone
	q := r.Queue()
	var taken atomic.Int64
	var stop atomic.Bool
	ended := make(chan struct{})
	const many = 100
	for range many {
		go func() {
			for !stop.Load() {
				q.Begin()
				taken.Add(1)
			}
			ended <- struct{}{}
		}()
	}
	var took []int64
	b := make([]byte, 1)
	for range 99 {
		before := taken.Load()
		if _, err := there.w.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(back.r, b); err != nil {
			t.Fatal(err)
		}
		took = append(took, taken.Load()-before)
	}
	stop.Store(true)
	for range many {
		<-ended
	}
	// There and back, who is heard comes after what is asked for with him. Single ones may take longer: the kernel has other
	// things to do.
	slices.Sort(took)
	if n := took[len(took)/2]; n > 6*64 {
		t.Errorf("an exchange takes as long as %d turns: %v", n, took)
	}
}

type pipe struct{ r, w *os.File }

func newPipe(t *testing.T) pipe {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return pipe{r, w}
}

// After its end, and where there are no files, rounds still come.
func TestRoundsGoOnWithoutTheNetwork(t *testing.T) {
	r := turn.New(turn.Config{CPUs: 1})
	q := r.Queue()
	for i := range 1000 {
		if i == 500 {
			r.Close()
		}
		q.Begin()
	}
}

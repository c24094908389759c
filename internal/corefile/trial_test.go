package corefile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForTrial(t *testing.T) {
	for in, want := range map[string]string{
		plain:                               plain,
		". {\n bind 10.0.0.1\n errors\n}\n": ". {\n errors\n}\n",
		"(s) {\n errors\n bind lo {\n  except ::1\n }\n}\n. {\n import s\n}": "(s) {\n errors\n}\n. {\n import s\n}",
		".\n{ bind 10.0.0.1\n errors\n}\n":                                   ".\n{ bind 10.0.0.1\n errors\n}\n",
		". {\n bind 10.0.0.1\n":                                              ". {\n bind 10.0.0.1\n",
	} {
		got := ForTrial(in)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", in, diff)
		}
	}
}

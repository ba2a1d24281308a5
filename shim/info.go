package shim

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// featuresType is what containerd registers for the runtime-spec's Features,
// whose value is JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info answers -info. Options are returned as they came: of whatever type they
// are, what this runtime can do does not depend on them.
func (r Runtime) info(stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxOptions+1))
	if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	if len(input) > maxOptions {
		return fmt.Errorf("read stdin: more than %d bytes", maxOptions)
	}
	var options *anypb.Any
	if len(input) > 0 {
		options = new(anypb.Any)
		if err := proto.Unmarshal(input, options); err != nil {
			return errors.New("stdin holds no options")
		}
	}
	features, err := r.Features()
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	answer, err := proto.Marshal(&types.RuntimeInfo{
		Name:        r.Name,
		Version:     &types.RuntimeVersion{Version: r.Version, Revision: r.Revision},
		Options:     options,
		Features:    &anypb.Any{TypeUrl: featuresType, Value: features},
		Annotations: r.Annotations,
	})
	if err != nil {
		return err
	}
	_, err = stdout.Write(answer)
	return err
}

const maxOptions = 10 << 20

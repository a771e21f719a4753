# frozen_string_literal: true

describe 'bridgeward::listener' do
  let(:title) { 'puppet' }
  let(:allow) { [{ 'certname' => ['web*.example.com'] }] }
  let(:command) { ['/usr/bin/mco', 'puppet', 'runonce', '-F', 'role=haproxy'] }
  let(:route) { { 'method' => 'GET', 'command' => command, 'run' => { 'coalesce' => true } } }
  let(:params) { { port: 9443, allow: allow, routes: { 'kick' => route } } }

  it { is_expected.to compile.with_all_deps }

  it 'makes routes' do
    is_expected.to contain_bridgeward__route('kick').with(
      method: 'GET', allow: allow, run: { 'steps' => [command], 'coalesce' => true }
    )
  end

  it 'takes the place of the default address' do
    contents = catalogue.resources.select { |resource| resource.type == 'Concat::Fragment' && resource[:order] == '02' }.map { |resource| resource[:content] }
    expect(contents.uniq).to contain_exactly("\n", %(  "0.0.0.0:9443",\n))
  end

  context 'with an IPv6 address' do
    let(:params) { super().merge(address: '::') }

    it { is_expected.to contain_concat__fragment('bridgeward gateway.toml: listener puppet').with_content(%(  "[::]:9443",\n)) }
  end

  context 'with rules of the route' do
    let(:params) { super().merge(allow: [], routes: { 'kick' => route.merge('allow' => [{ 'key' => ['jenkins'] }]) }) }

    it { is_expected.to contain_bridgeward__route('kick').with_allow([{ 'key' => ['jenkins'] }]) }
  end

  {
    'a shell string' => ['mco puppet runonce -F "role=a b"', %r{there is no shell.*command => \['/usr/bin/mco', 'puppet', 'runonce', '-F', 'role=a b'\]}],
    'a string for a shell' => ['cd /srv && ./deploy | logger', %r{there is no shell.*belongs into a script: command => \['/usr/local/bin/the-script'}],
    'an unclosed quote' => ["echo 'x", %r{there is no shell.*belongs into a script}],
    'a relative program' => [['mco', 'puppet'], %r{Listener\[puppet\], route kick: command must be an array: the absolute path}],
    'a number for an argument' => [['/bin/sleep', 5], %r{command must be an array}],
    'no command' => [{}, %r{command must be an array}],
  }.each do |what, (given, reason)|
    context "with #{what}" do
      let(:command) { given }

      it { is_expected.to compile.and_raise_error(reason) }
    end
  end

  context 'with nobody to allow' do
    let(:allow) { [] }

    it { is_expected.to compile.and_raise_error(%r{Listener\[puppet\], route kick: nobody may use it}) }
  end
end
